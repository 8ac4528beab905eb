"""What the compose files say, read as text: this runs before a YAML parser is installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from deploy.env_file import chosen_profiles
from images import declared

FILES = ("docker-compose.yml", "docker-compose-mlops.yml", "docker-compose-monitoring.yml", "docker-compose-ray.yml")


def required(folder: Path) -> set[str]:
    """Return the variables without which Compose does not start."""
    return {name for file in FILES for name in re.findall(r"\$\{([A-Z0-9_]+):\?", (folder / file).read_text())}


def services(folder: Path) -> dict[str, str]:
    """Return the text of each service in the compose files, without what stands outside `services`."""
    blocks: dict[str, str] = {}
    for file in FILES:
        text = re.search(r"^services:\n(.*?)(?=^\S|\Z)", (folder / file).read_text(), re.M | re.S)
        parts = re.split(r"^  ([a-z0-9-]+):\n", text[1], flags=re.M)[1:] if text else []
        blocks |= dict(zip(parts[::2], parts[1::2], strict=True))
    return blocks


def profiles(folder: Path) -> dict[str, str]:
    """Return the profile of each service that has one."""
    found = {name: re.search(r"^    profiles: \[([a-z]+)\]$", text, re.M) for name, text in services(folder).items()}
    return {name: match[1] for name, match in found.items() if match}


def run_once(folder: Path) -> set[str]:
    """Return the services that do their work and exit."""
    return {name for name, text in services(folder).items() if re.search(r'^    restart: "no"$', text, re.M)}


def enabled(folder: Path, values: Mapping[str, str]) -> list[str]:
    """Return the text of each service that `make up` starts with these variables."""
    chosen, of = chosen_profiles(values), profiles(folder)
    return [text for name, text in services(folder).items() if name not in of or chosen & {of[name], "*"}]


def published(folder: Path, values: Mapping[str, str]) -> dict[str, int]:
    """Return the ports that the enabled services publish, by variable."""
    found = [
        pair for text in enabled(folder, values) for pair in re.findall(r"\$\{([A-Z0-9_]+_PORT):-(\d+)\}:\d+", text)
    ]
    return {name: int(values.get(name) or default) for name, default in found}


def images(folder: Path, values: Mapping[str, str]) -> list[str]:
    """Images that the enabled services name, variables filled in, and those that `make images` builds."""
    named = {line for text in enabled(folder, values) for line in re.findall(r"^ +image: (\S+)$", text, re.M)}
    prefix = "${PIPELINE_IMAGE_PREFIX:-vision-mlops}/%s:${PIPELINE_IMAGE_TAG:-dev}"
    named |= {prefix % name for name in declared.images()}
    fill = re.compile(r"\$\{([A-Z0-9_]+):-([^}]*)\}")
    return sorted(fill.sub(lambda match: values.get(match[1]) or match[2], name) for name in named)
