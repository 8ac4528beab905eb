"""Resource limits of a stage: its declared default, overridden by the environment, the DAG or the DAG run.

None of these goes over the administrators' ceilings; a default that would is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tasks.contract.policies_file import load_policies
from tasks.contract.resources import StageResources
from tasks.contract.stages import STAGES
from tasks.errors import SettingsError
from tasks.settings import Settings


def resources_for(
    stage: str,
    settings: Settings,
    in_dag: Mapping[str, Any] | None = None,
    in_run: Mapping[str, Mapping[str, Any]] | None = None,
) -> StageResources:
    """Merge a stage's limits; the later ones win, field by field.

    Args:
        stage: the stage's name.
        settings: with `PIPELINE_RESOURCES`, which overrides the stage's default.
        in_dag: what the DAG file asks for.
        in_run: the DAG run's Param `resources`: per stage, as in `PIPELINE_RESOURCES`.

    Raises:
        SettingsError: naming the stage and the field that cannot be used, or is over its ceiling.
    """
    for source, given in (("PIPELINE_RESOURCES", settings.pipeline_resources), ("resources", in_run or {})):
        if unknown := sorted(set(given) - set(STAGES)):
            raise SettingsError(f"{source}: stage {unknown[0]!r} is unknown; choose one of {', '.join(STAGES)}")
    asked = {**settings.pipeline_resources.get(stage, {}), **(in_dag or {}), **(in_run or {}).get(stage, {})}
    try:
        wanted = StageResources.model_validate(STAGES[stage].resources.model_dump() | asked)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"resources of {stage}: {field}={first['input']!r}: {first['msg']}; "
            'an example is {"cpus": 2, "memory": "8g", "shm_size": "1g", "gpus": 1}'
        ) from invalid
    policies = load_policies(settings)
    return policies.ceilings_for(stage).applied(stage, wanted, asked, policies.source) if policies else wanted
