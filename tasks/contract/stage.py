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
    extra: str  # of pyproject.toml: the packages in its image (client: MLflow; vision: torch too; tune: Ray too)
    # By default; PIPELINE_RESOURCES and the DAG go over it.
    resources: StageResources = field(default_factory=StageResources)
    # `module:class` of what the stage reads from MLflow (see `tasks.records.inputs`), resolved once by the runner. A
    # stage with inputs takes an earlier run's result when its inputs, parameters and code are the same.
    inputs: str | None = None
    depends_on: str = ""  # the same in words, for the log and the run's note

    @property
    def can_be_forced(self) -> bool:
        """Whether the stage may take something from an earlier run, so that `force` means something to it."""
        return issubclass(self.request, ReusableRequest)

    @property
    def upstream_examples(self) -> dict[str, Any]:
        """An example of each field that an earlier stage gives, by name."""
        fields = self.request.model_fields.items()
        return {name: field.examples[0] for name, field in fields if field.is_required() and field.examples}

    def parse_result(self, text: str | bytes | Mapping[str, Any]) -> StageResult:
        """Check a result, JSON or mapping.

        Raises:
            ResultError: naming each field that is wrong.
        """
        return parse(self.result, text, ResultError)

    def stored_result(self, text: str) -> StageResult:
        """Read a result that any release stored in MLflow, unchecked: to show it, not to work with it."""
        return self.result.model_construct(**json.loads(text))
