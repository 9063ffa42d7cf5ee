"""Engines that run the workers of a bulk job."""
