"""deploy: wait until the service serves a version, and check that it gives the same answers as in evaluate.

The service follows the alias `champion` by itself (docs/decisions/0002); this stage only waits and compares, and on a
laptop starts the service if it is not running. Its image has neither BentoML nor torch nor numpy.
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
from tasks.records.reference_predictions import ReferencePredictions, read_reference_predictions
from tasks.records.tracking import StageRun
from tasks.serving.client import ServiceClient, replicas
from tasks.serving.launch import Launcher
from tasks.serving.wait import POLL_SECONDS, wait_for_version
from tasks.settings import Settings

log = logging.getLogger("tasks.deploy")


def run(request: DeployRequest, run: StageRun, settings: Settings) -> DeployResult:
    """Check that every replica of the service answers with `request.version` as evaluate did; else undo the promotion.

    Undoing points `champion` back to the previous version and records why in the ledger. A version in service already
    is only compared. `skipped`: the service follows another registered model and is not managed by this project.

    Raises:
        ModelError: `champion` points to another version; or the service did not load this one within `deploy_timeout`
            seconds, rejects requests or answers differently, and the promotion was undone.
        DataError: the version has no reference predictions.
    """
    name, number = request.registered_model, request.version
    _finish_undoing(request)
    require_champion(name, number)
    version = registry.by_number(name, number)
    reference = read_reference_predictions(version.tags.get("pipeline.evaluate_run_id"), f"{name} version {number}")
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
        asked, waited, answers = _prove(request, version, reference, launcher, settings)
    except PipelineError as failure:
        undone = _undo(request, version, str(failure))
        raise ModelError(f"{failure}; {undone}" if undone else str(failure)) from failure

    document = {"urls": [client.url for client in asked], "tolerance": reference.tolerance, "answers": answers}
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
    log.info("%d answers of %d replica(s) match evaluate's (largest difference %.2g)", len(answers), len(asked), worst)
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
    """Describe which other registered model the service follows; None if it is the same, or there is no answer yet."""
    info = _client(settings).info()
    if info is None or info["registered_model"] == request.registered_model:
        return None
    return (
        f"the service at {settings.serving_url} follows {info['registered_model']!r}: version {request.version} of "
        f"{request.registered_model!r} is its champion but not in service; to serve it, run a service with "
        f"SERVING_REGISTERED_MODEL={request.registered_model}"
    )


def _prove(
    request: DeployRequest, version: ModelVersion, known: ReferencePredictions, launcher: Launcher, settings: Settings
) -> tuple[list[ServiceClient], float, list[dict[str, Any]]]:
    """Wait until every replica serves the version, then compare the answers; wait again if one stops answering.

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
            answers = [answer for client, info in infos.items() for answer in _answers(client, info, known, number)]
            return list(infos), waited, answers
        except UnavailableError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS)


def _answers(
    client: ServiceClient, info: dict[str, Any], known: ReferencePredictions, version: int
) -> list[dict[str, Any]]:
    """Compare the answers of all workers of a replica."""
    count, [first, *_] = info.get("workers", 1), known.predictions  # services of earlier releases do not say it
    workers = client.of_each_worker(count, first.name, first.image)
    if len(workers) < count:
        log.info(
            "only %d of the %d workers of %s can be reached from here; each has compared its own answers before",
            len(workers), count, client.url,
        )  # fmt: skip
    return [answer for each in workers for answer in compare(each, known, list(info["classes"]), version)]


def _undo(request: DeployRequest, version: ModelVersion, why: str) -> str:
    """Point `champion` back to the version before this one, as the ledger has it, and record that; say what was done.

    Empty if there is nothing to undo, because `champion` points to another version by now.
    """
    name, number = request.registered_model, request.version
    champion = registry.by_alias(name)
    if champion is None or int(champion.version) != number:
        return ""
    move = ledger.newest_move(name)
    if move is None or move.entry.to_version != number:
        return f"champion stays version {number}: the ledger does not show what it was before; move the alias yourself"
    ledger.move_champion(
        ledger.Entry(
            key=request.task.key,
            kind=ledger.Kind.FAILED_DEPLOY,
            registered_model=name,
            from_version=number,
            to_version=move.entry.from_version,
            candidate_version=number,
            candidate_sha256=version.tags.get(registry.SHA256, ""),
            by=request.task.by,
            reason=why[:500],
            evidence_run_id=version.tags.get("pipeline.evaluate_run_id"),
        )
    )
    return _again(name, move.entry.from_version)


def _finish_undoing(request: DeployRequest) -> None:
    """Finish undoing the promotion if an earlier try of this task found that the version cannot be served.

    Raises:
        ModelError: the promotion was undone, by the earlier try or now.
    """
    name = request.registered_model
    begun = ledger.failed_deploy(name, request.task.key)
    if begun is None or begun.entry.candidate_version != request.version:
        return
    champion = registry.by_alias(name)
    now = int(champion.version) if champion else None
    if now not in {request.version, begun.entry.to_version} or (begun.finished and now == request.version):
        return  # someone has moved it since
    if not begun.finished:
        ledger.move_champion(begun.entry)
    raise ModelError(f"{begun.entry.reason}; {_again(name, begun.entry.to_version)}")


def _again(name: str, version: int | None) -> str:
    return f"champion of {name} is version {version} again" if version else f"{name} has no champion again"


def require_champion(name: str, version: int) -> None:
    """Refuse to wait for a version that the service will not load.

    Raises:
        ModelError: `champion` of `name` does not point to `version`.
    """
    champion = registry.by_alias(name)
    if champion is None or int(champion.version) != version:
        now = f"is version {champion.version}" if champion else "does not exist"
        raise ModelError(
            f"cannot deploy version {version}: champion of {name!r} {now}; run the DAG again, or set the alias back"
        )


def compare(
    client: ServiceClient, reference: ReferencePredictions, classes: list[str], version: int
) -> list[dict[str, Any]]:
    """Send each reference image to the service and compare the answer with the reference prediction.

    Returns:
        For each image its name, class, the largest difference of a probability and the milliseconds it took.

    Raises:
        ModelError: an answer differs from evaluate's by more than the tolerance.
    """
    answers = []
    for ref in reference.predictions:
        began = time.perf_counter()
        answer = client.predict(ref.name, ref.image)
        milliseconds = round(1000 * (time.perf_counter() - began), 2)
        got = [float(answer["probabilities"].get(name, float("nan"))) for name in classes]
        differences = [abs(a - b) for a, b in zip(got, ref.probabilities, strict=False)]
        same = len(got) == len(ref.probabilities) and all(d <= reference.tolerance for d in differences)
        if answer["class"] != ref.label or answer["model_version"] != version or not same:
            raise ModelError(
                f"reference image {ref.name!r}: evaluate answered {ref.label!r} {_rounded(ref.probabilities)}, "
                f"the service (version {answer['model_version']}) answers {answer['class']!r} {_rounded(got)}; "
                "serving and evaluate run different models or decode images differently"
            )
        answers.append(
            {"name": ref.name, "class": ref.label, "difference": max(differences), "milliseconds": milliseconds}
        )
    return answers


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values[:10]]
