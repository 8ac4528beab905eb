"""The table of stages: the one place where every stage is declared.

A request field **with a default** is a parameter: it becomes a field of the DAG's form in the Airflow UI, with the
limits and description given there. A field **without a default** comes from an earlier stage, most often as its run ID;
so do the tags of such a run (`UpstreamTags`), which a DAG may leave out.
Results are small JSON (IDs, numbers, one verdict); data, weights and plots are found through `run_id` in MLflow.

The table is read by the runner, the operator, the form, reuse, the summary and the images. It imports pydantic and
nothing heavier: Airflow's DAG processor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.contract import cleaning, compression, data, deployment, prediction, promotion, training
from tasks.contract.messages import ReusableRequest, StageRequest, parse
from tasks.contract.stage import Stage
from tasks.errors import RequestError

STAGES: dict[str, Stage] = {
    stage.name: stage
    for module in (data, training, compression, promotion, deployment, cleaning, prediction)
    for stage in module.STAGES
}
# The allowed values of the parameter `force`.
FORCE_CHOICES = (*(name for name, stage in STAGES.items() if stage.can_be_forced), "all")


def parse_request(stage: str, text: str | bytes | Mapping[str, Any]) -> StageRequest:
    """Validate the request of a stage, JSON or mapping.

    Raises:
        RequestError: there is no such stage; or naming each wrong field, its value and the fix.
    """
    if stage not in STAGES:
        raise RequestError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
    request = parse(STAGES[stage].request, text, RequestError)
    for number, name in enumerate(request.force if isinstance(request, ReusableRequest) else ()):
        if name not in FORCE_CHOICES:
            choices = ", ".join(map(repr, FORCE_CHOICES))
            raise RequestError(f"{type(request).__name__}: force.{number}={name!r}: choose from {choices}")
    return request


def parameters(request: type[StageRequest]) -> dict[str, dict[str, Any]]:
    """JSON schema of each parameter (field with a default) of a request, by name."""
    properties: dict[str, dict[str, Any]] = request.model_json_schema()["properties"]
    if "force" in properties:  # Airflow's form makes a multiple choice of the examples
        properties["force"] |= {"items": {"type": "string", "enum": [*FORCE_CHOICES]}, "examples": [*FORCE_CHOICES]}
    given = {name for name, field in request.model_fields.items() if field.is_required()} | request.upstream_tags()
    return {name: of for name, of in properties.items() if name not in given}
