"""Compares the answers of a service with those that evaluate logged; runs in the image of the stage deploy.

    python drill_check.py REGISTERED_MODEL SECONDS

Waits up to SECONDS for the service at SERVING_URL to serve the champion. Reads MLFLOW_TRACKING_* and SERVING_API_KEY.
"""

from __future__ import annotations

import os
import sys
import time

from tasks.errors import PipelineError
from tasks.records import registry
from tasks.records.reference_predictions import read_reference_predictions
from tasks.serving.client import ServiceClient
from tasks.stages.deploy import compare


def check(name: str, seconds: float, service: ServiceClient) -> str:
    """Return a line that says how many answers were the same.

    Raises:
        PipelineError: an answer differs, or there is nothing to compare with.
        TimeoutError: the service does not serve the champion.
    """
    champion = registry.by_alias(name)
    if champion is None:
        raise LookupError(f"{name} has no champion, so there are no answers to compare")
    version = int(champion.version)
    reference = read_reference_predictions(champion.tags.get("pipeline.evaluate_run_id"), f"{name} version {version}")
    deadline = time.monotonic() + seconds
    while (info := service.info() or {}).get("model_version") != version:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the service does not serve {name} version {version} after {seconds:.0f} s; it says {info}"
            )
        time.sleep(1)
    answers = compare(service, reference, list(info["classes"]), version)
    worst = max(answer["difference"] for answer in answers)
    return f"{len(answers)} answers of {name} version {version} are those of evaluate (largest difference {worst:.2g})"


def main(name: str, seconds: str) -> None:
    """Print the line, or end with an error in one line."""
    try:
        service = ServiceClient(os.environ["SERVING_URL"], os.environ.get("SERVING_API_KEY") or None)
        print(check(name, float(seconds), service))
    except (PipelineError, LookupError, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
