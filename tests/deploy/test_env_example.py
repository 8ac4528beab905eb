"""`.env.example` lists what the programs read: no more, no less, and no secret."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from deploy import backup_encryption, backup_places, wal_shipping
from deploy.env_file import parse
from deploy.setup_env import SECRETS
from deploy.stack_files import FILES
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".env.example").read_text()
SETTINGS = {name.upper() for name in Settings.model_fields}
# Read by images/declared.py.
BUILDS = {"PIPELINE_IMAGE_PREFIX", "PIPELINE_IMAGE_TAG", "PYTHON_IMAGE"}
# Read by the commands of deploy/.
COMMANDS = {backup_encryption.VARIABLE, *backup_places.SETTINGS, *wal_shipping.SETTINGS}
# Read by MLflow's client itself.
OTHERS = {name for name in parse(TEXT) if name.startswith("MLFLOW_ENABLE_PROXY_")}


def read_by_compose_and_builds() -> set[str]:
    return BUILDS | {name for file in FILES for name in re.findall(r"\$\{([A-Z][A-Z0-9_]+)", (ROOT / file).read_text())}


def test_every_setting_is_listed() -> None:
    assert set(parse(TEXT)) >= SETTINGS


def test_every_variable_of_the_stack_is_listed() -> None:
    assert set(parse(TEXT)) >= read_by_compose_and_builds()


def test_every_variable_has_a_reader() -> None:
    assert set(parse(TEXT)) <= SETTINGS | read_by_compose_and_builds() | COMMANDS | OTHERS


def test_no_secret_has_a_value() -> None:
    values = parse(TEXT)
    assert {name for name in SECRETS if values[name]} == set()


def test_every_required_variable_gets_a_value_from_setup() -> None:
    required = {n for f in FILES for n in re.findall(r"\$\{([A-Z0-9_]+):\?", (ROOT / f).read_text())}
    assert required
    assert required <= SECRETS.keys() | {"MLFLOW_TRACKING_USERNAME"}


def test_every_group_of_variables_is_explained() -> None:
    lines = TEXT.splitlines()
    for above, line in pairwise(lines):
        assert above.strip() or not re.match(r"[A-Z]", line), f"{line} has no explanation above it"
