"""Recipes and the training loop. Needs torch."""
