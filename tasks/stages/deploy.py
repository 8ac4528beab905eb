"""deploy: wait until the service answers with a version, and prove that it answers as the model did in evaluate.

The service follows the alias `champion` by itself (docs/decisions/0002); this stage only watches, compares, and on a
laptop starts the service that is not running. Its image has neither BentoML nor torch nor numpy.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from tasks import ledger, registry
from tasks.contract import DeployRequest, DeployResult
from tasks.errors import ModelError, UnavailableError
from tasks.probes import Probes, read_probes
from tasks.serving.client import ServiceClient, replicas
from tasks.serving.launch import Launcher
from tasks.serving.wait import wait_for_version
from tasks.settings import Settings
from tasks.tracking import StageRun

log = logging.getLogger("tasks.deploy")


class _UndeployedError(Exception):
    """The version is not in service, or not as it should be; its text says why."""


def run(request: DeployRequest, run: StageRun, settings: Settings) -> DeployResult:
    """See that every replica of the service has `request.version` and answers as evaluate did; else undo the promotion.

    Undone means: `champion` names the version again that it named before, and the ledger says why. Running it again for
    the version in service starts nothing and takes as long as the comparison.

    Raises:
        ModelError: `champion` names another version, the service follows another model, or the promotion was undone:
            the service did not take the version within `deploy_timeout` seconds, or its answers differ.
        DataError: the version has no probe images.
        SettingsError: another program answers at SERVING_URL.
        UnavailableError: the service went away while it was asked.
    """
    name, number = request.registered_model, request.version
    require_champion(name, number)
    version = registry.by_number(name, number)
    probes = read_probes(version.tags.get("pipeline.evaluate_run_id"), f"{name} version {number}")
    launcher = Launcher(settings, name)
    began = time.monotonic()
    try:
        asked = _follow(request, version, launcher, settings, began + request.deploy_timeout)
        waited = time.monotonic() - began
        answers = [
            answer for client, info in asked for answer in compare(client, probes, list(info["classes"]), number)
        ]
    except _UndeployedError as failure:
        raise ModelError(f"{failure}; {_undo(request, version, str(failure))}") from failure

    document = {"urls": [client.url for client, _ in asked], "tolerance": probes.tolerance, "answers": answers}
    mlflow.log_dict(document, "answers.json")
    worst = max(answer["difference"] for answer in answers)
    mlflow.log_metrics(
        {
            "deploy/wait_seconds": waited,
            "deploy/replicas": len(asked),
            "deploy/answers_checked": len(answers),
            "deploy/largest_difference": worst,
            "deploy/request_milliseconds": min(answer["milliseconds"] for answer in answers),
        }
    )
    log.info("%d answers of %d replica(s) equal evaluate's (largest difference %.2g)", len(answers), len(asked), worst)
    return DeployResult(
        **run.baton,
        registered_model=name,
        version=number,
        url=settings.serving_url,
        started=launcher.started,
        answers_checked=len(answers),
        replicas=len(asked),
    )


def _follow(
    request: DeployRequest, version: ModelVersion, launcher: Launcher, settings: Settings, deadline: float
) -> list[tuple[ServiceClient, dict[str, Any]]]:
    """Wait until every replica has the version; each with what it says of itself.

    Raises:
        _UndeployedError: one has not by the deadline.
    """
    name, number = request.registered_model, request.version
    key = settings.serving_api_key.get_secret_value() if settings.serving_api_key else None
    asked = []
    first = ServiceClient(settings.serving_url, key)
    first.refresh()
    try:
        wait_for_version(
            first, launcher, name, number, version.run_id, deadline, still_wanted=lambda: require_champion(name, number)
        )
        for client in replicas(settings.serving_url, key):
            client.refresh()
            info = wait_for_version(
                client, launcher, name, number, version.run_id, deadline,
                still_wanted=lambda: require_champion(name, number),
            )  # fmt: skip
            log.info("%s serves %s version %d", client.url, name, number)
            asked.append((client, info))
    except UnavailableError as error:
        raise _UndeployedError(str(error)) from error
    return asked


def _undo(request: DeployRequest, version: ModelVersion, why: str) -> str:
    """Put `champion` back where the ledger says it was before this version, and record it; say what was done."""
    name, number = request.registered_model, request.version
    move = next((r.entry for r in ledger.history(name) if r.entry.kind is not ledger.Kind.REFUSAL), None)
    if move is None or move.to_version != number:
        return f"champion stays version {number}: the ledger does not know what it was before; move it by hand"
    ledger.move_champion(
        ledger.Entry(
            key=request.task.key,
            kind=ledger.Kind.FAILED_DEPLOY,
            registered_model=name,
            from_version=number,
            to_version=move.from_version,
            candidate_version=number,
            candidate_sha256=version.tags.get("pipeline.model_sha256", ""),
            by=request.task.by,
            reason=why[:500],
            evidence_run_id=version.tags.get("pipeline.evaluate_run_id"),
        )
    )
    if move.from_version is None:
        return f"{name} has no champion again"
    return f"champion of {name} is version {move.from_version} again"


def require_champion(name: str, version: int) -> None:
    """Refuse to wait for a version that the service will not load.

    Raises:
        ModelError: `champion` of `name` does not name `version`.
    """
    champion = registry.by_alias(name)
    if champion is None or int(champion.version) != version:
        now = f"names version {champion.version}" if champion else "does not exist"
        raise ModelError(
            f"champion of {name!r} {now}, not version {version}; start the DAG again, or set the alias to {version}"
        )


def compare(client: ServiceClient, probes: Probes, classes: list[str], version: int) -> list[dict[str, Any]]:
    """Send each probe image to the service.

    Returns:
        For each probe its name, class, the largest difference of a probability and the milliseconds it took.

    Raises:
        _UndeployedError: an answer differs from evaluate's by more than the tolerance.
    """
    answers = []
    for probe in probes.probes:
        began = time.perf_counter()
        answer = client.predict(probe.name, probe.image)
        milliseconds = round(1000 * (time.perf_counter() - began), 2)
        got = [float(answer["probabilities"].get(name, float("nan"))) for name in classes]
        differences = [abs(a - b) for a, b in zip(got, probe.probabilities, strict=False)]
        same = len(got) == len(probe.probabilities) and all(d <= probes.tolerance for d in differences)
        if answer["class"] != probe.label or answer["model_version"] != version or not same:
            raise _UndeployedError(
                f"probe {probe.name!r}: evaluate answered {probe.label!r} {_rounded(probe.probabilities)}, the service "
                f"(version {answer['model_version']}) answers {answer['class']!r} {_rounded(got)}; "
                "serving and evaluation do not run the same model or decode images alike"
            )
        answers.append(
            {"name": probe.name, "class": probe.label, "difference": max(differences), "milliseconds": milliseconds}
        )
    return answers


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values[:10]]
