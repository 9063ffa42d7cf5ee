"""What only the two papers (arXiv v1, 2020, and IJCV 2021) need."""
