"""Decides about promotion: evidence in, verdict out. Pure; may import the contract."""
