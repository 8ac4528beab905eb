"""Stages as processes on this machine."""
