"""Heads: the representations of landmarks, each with its layers, encode, loss and decode."""
