"""Tells Airflow about the link from a task to its MLflow run."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin

from pipeline.links import MlflowRunLink


class VisionMlopsPlugin(AirflowPlugin):
    """The project's one plugin; operators are imported by DAG files, not registered."""

    name = "vision_mlops"
    operator_extra_links = [MlflowRunLink()]  # noqa: RUF012  # Airflow's base class declares it so
