"""Decoders in export form, and how their weights are read."""
