"""Metrics, evaluation protocols and their reports. Exported models are evaluated, so torch is not needed."""
