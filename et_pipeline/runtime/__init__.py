"""Run a .pte on this host."""
