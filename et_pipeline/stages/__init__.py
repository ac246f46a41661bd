"""The steps of a run. Each module has a `run`; none imports another."""
