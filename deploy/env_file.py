"""Reads `.env`, and what it says about Compose profiles.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import CONFIG, DeployError

ROOT = Path(__file__).resolve().parent.parent
ENV_FILE = ROOT / ".env"
PLACEHOLDER = re.compile(r"(change[-_ ]?me.*|<.*>|xxx+|password|secret)", re.IGNORECASE)


def parse(text: str) -> dict[str, str]:
    """Read `NAME=value` lines; comments and empty lines are skipped.

    Raises:
        ValueError: a line is none of these; gives its number but not its content, which may be secret.
    """
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"line {number} is not NAME=value")
        variables[name] = value
    return variables


def read(path: Path) -> dict[str, str]:
    """Return the variables in a file.

    Raises:
        DeployError: the file is missing, or a line of it is not NAME=value.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeployError(f"{path} is missing; run make setup", CONFIG) from None
    except ValueError as error:
        raise DeployError(f"{path}: {error}; correct the line", CONFIG) from None


def read_as_compose(path: Path) -> dict[str, str]:
    """Return the variables as Docker Compose sees them: the environment overrides the file.

    Raises:
        DeployError: as `read`.
    """
    return read(path) | os.environ


def chosen_profiles(values: Mapping[str, str]) -> set[str]:
    """Return the names in COMPOSE_PROFILES, which commas separate; `*` means all profiles."""
    return {name.strip() for name in values.get("COMPOSE_PROFILES", "").split(",")} - {""}


def has_profile(values: Mapping[str, str], profile: str) -> bool:
    """Tell whether COMPOSE_PROFILES turns a profile on."""
    return bool(chosen_profiles(values) & {profile, "*"})
