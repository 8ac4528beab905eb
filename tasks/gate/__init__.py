"""The promotion gate: a policy of limits, the evidence that was measured, and the one decision made of both.

Pure: no model, no MLflow, no files, nothing heavier than pydantic. `evaluate` measures, this decides, `register` obeys.
"""
