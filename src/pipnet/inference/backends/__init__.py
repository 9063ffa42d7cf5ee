"""Libraries that run a network."""
