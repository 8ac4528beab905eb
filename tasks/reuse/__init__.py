"""Decides whether a stage reuses the result of an earlier run. May import records and everything below it."""
