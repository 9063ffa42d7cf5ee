"""Video files and cameras: reading, tracking, smoothing, writing and preview."""
