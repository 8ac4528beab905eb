"""Batch prediction: a source of any size through a model, into parts that are complete or not there."""
