"""Export of checkpoints to files that run without torch."""
