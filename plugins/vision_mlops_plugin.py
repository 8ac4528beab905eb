"""Registers the links from a task to MLflow with Airflow."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin

from pipeline.operator.links import MlflowRunLink, ReusedFromLink, TunedByLink


class VisionMlopsPlugin(AirflowPlugin):
    """The project's only plugin; operators are imported by DAG files, not registered."""

    name = "vision_mlops"
    # A plain list, as in Airflow's base class
    operator_extra_links = [MlflowRunLink(), ReusedFromLink(), TunedByLink()]  # noqa: RUF012
