"""For all tests: no store but a test's own."""

from __future__ import annotations

import os

# `make test` gets it from deploy/env.sh, and it goes before a PIPELINE_HOME that a test sets.
os.environ.pop("MLFLOW_TRACKING_URI", None)
