"""Which model to serve: parses the setting SERVING_MODEL.

SERVING_MODEL                        served
(unset), champion, any alias         the version the alias names; followed when the alias moves
7                                    that version of SERVING_REGISTERED_MODEL
32 hexadecimal digits                the model of that MLflow run
models:/NAME@ALIAS                   as an alias; followed
models:/NAME/7, models:/m-ID         that version, that logged model
runs:/RUN_ID/PATH                    that model of that run
stage:Production                     deprecated: the newest version in that registry stage; followed
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import Enum

from tasks.errors import SettingsError

log = logging.getLogger("tasks.serving")

RUN_ID = re.compile(r"[0-9a-f]{32}")
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
STAGES = ("Staging", "Production", "Archived")
CHAMPION = "champion"
MODEL_PATH = "model"  # the name under which train logs its model


class Kind(Enum):
    """How a reference names a model."""

    ALIAS = "alias"
    VERSION = "version"
    RUN = "run"
    LOGGED_MODEL = "logged model"
    RUN_PATH = "run path"
    STAGE = "stage"


@dataclass(frozen=True)
class Reference:
    """Which model to serve; `name` is the alias, version, run ID, logged model ID or stage."""

    kind: Kind
    registered_model: str
    name: str
    path: str = MODEL_PATH

    @property
    def is_champion(self) -> bool:
        """Whether it is the alias that only the pipeline moves."""
        return self.kind is Kind.ALIAS and self.name == CHAMPION

    @property
    def follows(self) -> str | None:
        """The alias or stage that may name another version later; None when the model is fixed."""
        return self.name if self.kind in (Kind.ALIAS, Kind.STAGE) else None


@dataclass(frozen=True)
class Target:
    """One fixed model: where its files are, and what to call it in answers."""

    uri: str
    registered_model: str | None
    version: int | None
    run_id: str | None
    artifact_sha256: str | None = None  # of the files, as registered; None if unknown, then it is not checked
    evaluate_run_id: str | None = None  # has the reference predictions

    def __str__(self) -> str:
        """Name the target in a log line."""
        return f"{self.registered_model} version {self.version}" if self.version else self.uri


def parse(text: str | None, registered_model: str) -> Reference:
    """Parse SERVING_MODEL; see the module's table.

    Raises:
        SettingsError: `text` has none of these forms.
    """
    text = text or CHAMPION
    if text.startswith("models:/"):
        return _parse_models_uri(text, registered_model)
    if match := re.fullmatch(r"runs:/([0-9a-f]{32})/(.+)", text):
        return Reference(Kind.RUN_PATH, registered_model, match[1], match[2])
    if text.startswith("stage:"):
        return _stage(text, registered_model, text.removeprefix("stage:"))
    if RUN_ID.fullmatch(text):
        return Reference(Kind.RUN, registered_model, text)
    if re.fullmatch(r"[1-9][0-9]*", text):
        return Reference(Kind.VERSION, registered_model, text)
    if ALIAS.fullmatch(text) and text != "latest":
        return Reference(Kind.ALIAS, registered_model, text)
    raise _unknown(text)


def _parse_models_uri(text: str, registered_model: str) -> Reference:
    path = text.removeprefix("models:/")
    if re.fullmatch(r"m-[0-9a-f]{32}", path):
        return Reference(Kind.LOGGED_MODEL, registered_model, path)
    if match := re.fullmatch(r"([^/@]+)@([A-Za-z0-9_-]+)", path):
        return Reference(Kind.ALIAS, match[1], match[2])
    if match := re.fullmatch(r"([^/@]+)/([1-9][0-9]*)", path):
        return Reference(Kind.VERSION, match[1], match[2])
    if match := re.fullmatch(r"([^/@]+)/([A-Za-z]+)", path):
        return _stage(text, match[1], match[2])
    raise _unknown(text)


def _stage(text: str, registered_model: str, stage: str) -> Reference:
    known = {name.lower(): name for name in STAGES}.get(stage.lower())
    if known is None:
        raise _unknown(text)
    log.warning("SERVING_MODEL=%s: registry stages are deprecated in MLflow; give the version an alias instead", text)
    return Reference(Kind.STAGE, registered_model, known)


def _unknown(text: str) -> SettingsError:
    return SettingsError(
        f"SERVING_MODEL={text!r} names no model; give an alias (champion), a version (7), a run ID, "
        "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/PATH or stage:Production"
    )
