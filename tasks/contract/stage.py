"""One stage as the table of stages declares it: everything that is not its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.contract.messages import ReusableRequest, StageRequest, StageResult, parse
from tasks.contract.resources import StageResources
from tasks.errors import ResultError


@dataclass(frozen=True)
class Stage:
    """What a stage is. Its code is `tasks/stages/NAME.py`, its image `NAME`.

    `name` and `extra` are written as plain strings: `images/declared.py` reads them where pydantic is not installed.
    """

    name: str
    request: type[StageRequest]
    result: type[StageResult]
    # Of pyproject.toml: the packages in its image (client: MLflow; inference: also ONNX Runtime; vision: also torch;
    # tune: that and Ray).
    extra: str
    # Defaults; PIPELINE_RESOURCES and the DAG override them.
    resources: StageResources = field(default_factory=StageResources)
    # `module:class` of what the stage reads from MLflow (see `tasks.records.inputs`), resolved once by the runner. A
    # stage with inputs reuses the result of an earlier run with the same inputs, parameters and code.
    inputs: str | None = None
    depends_on: str = ""  # the same in words, for the log and the run's note
    # Tags of its run that later stages rely on. Its result says what they were, and goes through Airflow's database, to
    # which no stage writes: other stages may set tags of this run afterwards (docs/decisions/0038).
    hands_over: tuple[str, ...] = ()
    # Asks the service, so that it gets its address and its key.
    calls_service: bool = False
    # Writes registered models or the ledger, so that it logs in to MLflow as the user that may.
    changes_registry: bool = False
    # Whether it is tried again after its container was killed at its own limit of memory (`pipeline.operator.outcome`).
    # Not where the memory follows from files that anyone may have made, and nothing is lost that took long.
    retried_out_of_memory: bool = True
    # The parameter that says how. In a DAG that can do without the stage, the Param of the stage's own name takes its
    # place, and offers `none` too (see `pipeline.operator.params.stage_params`).
    choice: str = ""

    @property
    def can_be_forced(self) -> bool:
        """Whether the stage may reuse an earlier run, so that `force` applies to it."""
        return issubclass(self.request, ReusableRequest)

    @property
    def upstream_examples(self) -> dict[str, Any]:
        """An example of each field that an earlier stage fills in, by name."""
        fields = self.request.model_fields.items()
        return {name: field.examples[0] for name, field in fields if field.is_required() and field.examples}

    def parse_result(self, text: str | bytes | Mapping[str, Any]) -> StageResult:
        """Validate a result, JSON or mapping.

        Raises:
            ResultError: naming each wrong field.
        """
        return parse(self.result, text, ResultError)

    def stored_result(self, text: str) -> StageResult:
        """Read a result that any release stored in MLflow, without validation: for display only."""
        return self.result.model_construct(**json.loads(text))
