"""Fits a network to gold. May import `data` and `models`."""
