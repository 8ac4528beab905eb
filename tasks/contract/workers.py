"""Fields of the stages that can share their work among workers; the same in each, so that a form has them once.

This module imports pydantic and nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

WORKERS: Any = Field(
    1,
    ge=1,
    le=1024,
    description="Processes that share the work (train: every batch; predict: images; on a Ray cluster only, prepare: "
    "decoding, evaluate: scoring); more than 1 run on Ray.",
)
WORKER_CPUS: Any = Field(
    None, ge=1, description="CPU cores per worker. Default: those of the machine, divided; 1 on a cluster."
)
