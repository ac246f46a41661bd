"""What comes in: checkpoints of every kind, read faithfully, and the witness that says whether they were."""
