"""Runs one stage in one process. May import everything but the command line."""
