"""How a message from outside is checked, and what is said of one that is wrong: field, value, what would do."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tasks.errors import PipelineError

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], text: Any, error: type[PipelineError]) -> M:
    """Check a message, JSON or mapping, against its model.

    Raises:
        error: naming each field that is wrong, its value and what would do.
    """
    try:
        if isinstance(text, str | bytes):
            return model.model_validate_json(text)
        return model.model_validate(text)
    except ValidationError as invalid:
        raise error(f"{model.__name__}: " + "; ".join(_sentence(dict(e)) for e in invalid.errors())) from invalid


def _sentence(error: dict[str, Any]) -> str:
    """Turn one pydantic error into `field=value: what would do`."""
    name = ".".join(map(str, error["loc"]))
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"{str(error['input'])[:80]!r} is not JSON ({text}); send one JSON object"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{name}: missing; give it a value"
    return f"{name}={error['input']!r}: {text}" if name else text
