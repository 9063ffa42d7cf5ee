"""Metrics, protocols and their reports. No torch: what is measured is the exported model."""
