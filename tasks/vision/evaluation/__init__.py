"""Scores a classifier and compares two. May import `data`."""
