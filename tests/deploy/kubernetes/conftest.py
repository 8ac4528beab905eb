"""Every overlay as kubectl renders it, once per session."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.kubernetes.render import render

Manifest = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = ("local", "local-ray", "eks", "eks-gpu")
_rendered: dict[str, list[Manifest]] = {}


def manifests(overlay: str) -> list[Manifest]:
    """The overlay's objects; a copy, which a test may spoil."""
    if overlay not in _rendered:
        assert shutil.which("kubectl"), "kubectl renders the overlays; install it"
        _rendered[overlay] = list(yaml.safe_load_all(render(overlay, {})))
    return copy.deepcopy(_rendered[overlay])


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    """The name of each overlay in turn."""
    return str(request.param)


@pytest.fixture
def objects(overlay: str) -> list[Manifest]:
    """What an overlay renders to."""
    return manifests(overlay)
