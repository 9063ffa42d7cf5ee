"""Heads: each owns its layers, targets, loss and decode."""
