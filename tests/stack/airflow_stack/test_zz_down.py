"""Last of this package: it ends what the other modules need."""

from __future__ import annotations

import pytest

from tests.stack.airflow_stack.conftest import FILE
from tests.stack.conftest import Stack

pytestmark = pytest.mark.docker


def test_the_work_goes_and_the_state_stays(airflow: Stack, stack: Stack) -> None:
    """Last: it ends what the tests above need."""
    airflow.compose("down", "--timeout", "5", file=FILE)
    assert airflow.states(FILE) == {}
    assert stack.states() == {"postgres": "healthy", "s3": "healthy", "mlflow": "healthy", "bucket": "exited"}
