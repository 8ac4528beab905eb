"""Stages as containers on a Docker engine."""
