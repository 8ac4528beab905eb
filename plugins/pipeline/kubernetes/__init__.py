"""Stages as pods of a Kubernetes cluster."""
