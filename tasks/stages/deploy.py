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

from tasks.contract.deployment import DeployRequest, DeployResult
from tasks.errors import ModelError, PipelineError, UnavailableError
from tasks.records import ledger, registry
from tasks.records.metric_log import log_values
from tasks.records.reference_predictions import Probes, read_probes
from tasks.records.tracking import StageRun
from tasks.serving.client import ServiceClient, replicas
from tasks.serving.launch import Launcher
from tasks.serving.wait import POLL_SECONDS, wait_for_version
from tasks.settings import Settings

log = logging.getLogger("tasks.deploy")


def run(request: DeployRequest, run: StageRun, settings: Settings) -> DeployResult:
    """See that every replica of the service has `request.version` and answers as evaluate did; else undo the promotion.

    Undone means: `champion` names the version again that it named before, and the ledger says why. Running it again for
    the version in service starts nothing and takes as long as the comparison. The result says `skipped` where the
    service is not this project's to change and follows another registered model.

    Raises:
        ModelError: `champion` names another version; or the service did not take this one within `deploy_timeout`
            seconds, cannot be asked, or answers otherwise, and the promotion was undone.
        DataError: the version has no probe images.
    """
    name, number = request.registered_model, request.version
    _finish_undoing(request)
    require_champion(name, number)
    version = registry.by_number(name, number)
    probes = read_probes(version.tags.get("pipeline.evaluate_run_id"), f"{name} version {number}")
    launcher = Launcher(settings, name)
    other = None if launcher.in_charge else _other_model(request, settings)
    if other is not None:
        log.info("nothing to deploy: %s", other)
        return DeployResult(
            **run.result_fields,
            registered_model=name,
            version=number,
            url=settings.serving_url,
            started=False,
            answers_checked=0,
            replicas=0,
            skipped=other,
        )
    try:
        asked, waited, answers = _prove(request, version, probes, launcher, settings)
    except PipelineError as failure:
        undone = _undo(request, version, str(failure))
        raise ModelError(f"{failure}; {undone}" if undone else str(failure)) from failure

    document = {"urls": [client.url for client in asked], "tolerance": probes.tolerance, "answers": answers}
    mlflow.log_dict(document, "answers.json")
    worst = max(answer["difference"] for answer in answers)
    log_values(
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
        **run.result_fields,
        registered_model=name,
        version=number,
        url=settings.serving_url,
        started=launcher.started,
        answers_checked=len(answers),
        replicas=len(asked),
    )


def _client(settings: Settings) -> ServiceClient:
    return ServiceClient(settings.serving_url, _key(settings))


def _key(settings: Settings) -> str | None:
    return settings.serving_api_key.get_secret_value() if settings.serving_api_key else None


def _other_model(request: DeployRequest, settings: Settings) -> str | None:
    """Say which registered model the service follows, if it is another; None also while it does not answer."""
    info = _client(settings).info()
    if info is None or info["registered_model"] == request.registered_model:
        return None
    return (
        f"the service at {settings.serving_url} follows {info['registered_model']!r}: version {request.version} of "
        f"{request.registered_model!r} is its champion and not in service; to serve it, run a service with "
        f"SERVING_REGISTERED_MODEL={request.registered_model}"
    )


def _prove(
    request: DeployRequest, version: ModelVersion, probes: Probes, launcher: Launcher, settings: Settings
) -> tuple[list[ServiceClient], float, list[dict[str, Any]]]:
    """Wait until every replica has the version, then compare its answers; what goes away is waited for again.

    Returns:
        The replicas, the seconds waited for them, and their answers.
    """
    name, number = request.registered_model, request.version
    began = time.monotonic()
    deadline = began + request.deploy_timeout
    infos: dict[ServiceClient, dict[str, Any]] = {}

    def wait(client: ServiceClient) -> None:
        client.refresh()
        infos[client] = wait_for_version(
            client,
            launcher,
            name,
            number,
            version.run_id,
            deadline,
            still_wanted=lambda: require_champion(name, number),
        )

    while True:
        try:
            wait(_client(settings))
            infos.clear()
            for client in replicas(settings.serving_url, _key(settings)):
                wait(client)
                log.info("%s serves %s version %d", client.url, name, number)
            waited = time.monotonic() - began
            answers = [a for c, info in infos.items() for a in compare(c, probes, list(info["classes"]), number)]
            return list(infos), waited, answers
        except UnavailableError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS)


def _undo(request: DeployRequest, version: ModelVersion, why: str) -> str:
    """Put `champion` back where the ledger says it was before this version, and record it; say what was done.

    Empty when there is nothing to undo: `champion` names another version by now.
    """
    name, number = request.registered_model, request.version
    champion = registry.by_alias(name)
    if champion is None or int(champion.version) != number:
        return ""
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
            candidate_sha256=version.tags.get(registry.SHA256, ""),
            by=request.task.by,
            reason=why[:500],
            evidence_run_id=version.tags.get("pipeline.evaluate_run_id"),
        )
    )
    return _again(name, move.from_version)


def _finish_undoing(request: DeployRequest) -> None:
    """Finish what an earlier try of this task began to undo: it had proven that the version cannot be served.

    Raises:
        ModelError: the earlier try undid the promotion, or this one did now.
    """
    name = request.registered_model
    records = [record for record in ledger.history(name) if record.entry.key == request.task.key]
    begun = next((r for r in records if r.entry.kind is ledger.Kind.FAILED_DEPLOY), None)
    if begun is None or begun.entry.candidate_version != request.version:
        return
    champion = registry.by_alias(name)
    now = int(champion.version) if champion else None
    if now not in {request.version, begun.entry.to_version} or (begun.finished and now == request.version):
        return  # someone moved it since
    if not begun.finished:
        ledger.move_champion(begun.entry)
    raise ModelError(f"{begun.entry.reason}; {_again(name, begun.entry.to_version)}")


def _again(name: str, version: int | None) -> str:
    return f"champion of {name} is version {version} again" if version else f"{name} has no champion again"


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
        ModelError: an answer differs from evaluate's by more than the tolerance.
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
            raise ModelError(
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
