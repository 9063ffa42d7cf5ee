"""pipnet: facial landmarks, fast, accurate and robust in the wild."""

__version__ = "0.1.0"
