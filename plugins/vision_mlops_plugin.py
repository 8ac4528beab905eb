"""Tells Airflow about the links from a task to MLflow."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin

from pipeline.operator.links import MlflowRunLink, ReusedFromLink, TunedByLink


class VisionMlopsPlugin(AirflowPlugin):
    """The project's one plugin; operators are imported by DAG files, not registered."""

    name = "vision_mlops"
    # Airflow's base class declares it so
    operator_extra_links = [MlflowRunLink(), ReusedFromLink(), TunedByLink()]  # noqa: RUF012
