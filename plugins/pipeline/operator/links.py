"""The links from a task to MLflow: its own run, the search behind its hyperparameters, the run it reused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from tasks.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


def run_url(result: Mapping[str, Any], settings: Settings) -> str:
    """URL of a stage's run in the MLflow UI."""
    base = settings.mlflow_public_url.rstrip("/")
    return f"{base}/#/experiments/{result['experiment_id']}/runs/{result['run_id']}"


class MlflowRunLink(BaseOperatorLink):
    """A button on the task's page; grey until the task has a result."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty string while there is no result."""
        result = XCom.get_value(ti_key=ti_key, key=XCom.XCOM_RETURN_KEY)
        return run_url(result, load_settings()) if result else ""


class TunedByLink(BaseOperatorLink):
    """A button on the page of a training; grey when the hyperparameters are defaults or were set by hand."""

    name = "Tuned by"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL of the tune run, or an empty string."""
        result = XCom.get_value(ti_key=ti_key, key=XCom.XCOM_RETURN_KEY)
        tuned_by = result.get("tuned_by") if result else None
        return run_url({**result, "run_id": tuned_by}, load_settings()) if tuned_by else ""


class ReusedFromLink(BaseOperatorLink):
    """A button that leads to the run whose result was reused; grey when the task did the work itself.

    Airflow's Task SDK does not let a task write a note on itself, so a button is all its page can show.
    """

    name = "Reused from"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty string when the task reused nothing."""
        result = XCom.get_value(ti_key=ti_key, key=XCom.XCOM_RETURN_KEY) or {}
        earlier = result.get("reused_from")
        return run_url({**result, "run_id": earlier}, load_settings()) if earlier else ""
