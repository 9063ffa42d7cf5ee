"""From a checkpoint to files that run without torch."""
