"""deploy: wait until the service answers with a version, and prove that it answers as the model did in evaluate.

The service follows the alias `champion` of one registered model by itself (docs/decisions/0002); this stage only
watches, compares, and on a laptop starts the service that is not running. A service of the stack that follows another
registered model is left alone: there is nothing to deploy. Its image has neither BentoML nor torch nor numpy.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks import registry
from tasks.contract import DeployRequest, DeployResult
from tasks.errors import DataError, ModelError
from tasks.serving.client import ServiceClient
from tasks.serving.launch import Launcher
from tasks.serving.wait import wait_for_version
from tasks.settings import Settings
from tasks.tracking import StageRun, http_status

log = logging.getLogger("tasks.deploy")


class Probe(BaseModel):
    """One test image and the answer that evaluate got for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    png: str = Field(description="The image as PNG, in base64.")
    probabilities: list[float] = Field(min_length=2, description="In the order of the model's classes.")
    label: str = Field(alias="class")

    @property
    def image(self) -> bytes:
        """The PNG file."""
        return base64.b64decode(self.png, validate=True)


class Probes(BaseModel):
    """`probes.json` of an evaluate run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(gt=0, description="Largest difference of a probability that counts as the same.")
    probes: list[Probe] = Field(min_length=1)


def run(request: DeployRequest, run: StageRun, settings: Settings) -> DeployResult:
    """Wait for `request.version` to be in service and compare its answers with evaluate's.

    Running it again for the version in service starts nothing and takes as long as the comparison.
    The result says `skipped` where the service is not this project's to change and follows another registered model.

    Raises:
        ModelError: `champion` names another version, the service follows another model, or its answers differ.
        DataError: the version has no probe images.
        SettingsError: another program answers at SERVING_URL.
        UnavailableError: no service answers, or not with this version within `deploy_timeout` seconds.
    """
    name, number = request.registered_model, request.version
    require_champion(name, number)
    version = registry.by_number(name, number)
    probes = read_probes(dict(version.tags).get("pipeline.evaluate_run_id"), f"{name} version {number}")
    client = ServiceClient(settings.serving_url)
    launcher = Launcher(settings, name)
    followed = followed_model(client)
    if not launcher.in_charge and followed not in {None, name}:
        why = (
            f"the service at {settings.serving_url} follows {followed!r}: version {number} of {name!r} is its champion "
            f"and not in service; to serve it, run a service with SERVING_REGISTERED_MODEL={name}"
        )
        log.info("nothing to deploy: %s", why)
        return DeployResult(
            **run.baton,
            registered_model=name,
            version=number,
            url=settings.serving_url,
            started=False,
            answers_checked=0,
            skipped=why,
        )

    began = time.monotonic()
    info = wait_for_version(
        client, launcher, name, number, version.run_id, began + request.deploy_timeout,
        still_wanted=lambda: require_champion(name, number),
    )  # fmt: skip
    waited = time.monotonic() - began
    log.info("%s serves %s version %d after %.1f s", settings.serving_url, name, number, waited)

    answers = compare(client, probes, list(info["classes"]), number)
    mlflow.log_dict({"url": settings.serving_url, "tolerance": probes.tolerance, "answers": answers}, "answers.json")
    worst = max(answer["difference"] for answer in answers)
    mlflow.log_metrics(
        {
            "deploy/wait_seconds": waited,
            "deploy/answers_checked": len(answers),
            "deploy/largest_difference": worst,
            "deploy/request_milliseconds": min(answer["milliseconds"] for answer in answers),
        }
    )
    log.info("%d answers equal evaluate's (largest difference %.2g)", len(answers), worst)
    return DeployResult(
        **run.baton,
        registered_model=name,
        version=number,
        url=settings.serving_url,
        started=launcher.started,
        answers_checked=len(answers),
        replicas=1,
    )


def followed_model(client: ServiceClient) -> str | None:
    """Name the registered model that the service follows; None while it does not answer."""
    info = client.info()
    return None if info is None else str(info["registered_model"])


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


def read_probes(evaluate_run_id: str | None, what: str) -> Probes:
    """Fetch the probe images of the evaluate run that judged a version.

    Raises:
        DataError: there is no such run, it has no probes, or they are damaged.
    """
    if evaluate_run_id is None:
        raise DataError(f"{what} has no tag 'pipeline.evaluate_run_id'; register it through the pipeline")
    try:
        text = mlflow.artifacts.load_text(f"runs:/{evaluate_run_id}/probes.json")
        probes = Probes.model_validate_json(text)
        for probe in probes.probes:
            probe.image  # noqa: B018  # decodes, so that damage shows before anything is started
    except (ValidationError, binascii.Error) as error:
        raise DataError(f"probes.json of run {evaluate_run_id} is damaged ({error}); run evaluate again") from error
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and http_status(error) not in {400, 404}:
            raise
        raise DataError(f"{what}: run {evaluate_run_id} has no probes.json ({error}); run evaluate again") from error
    return probes


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
                "serving and evaluation do not run the same model or decode images alike: keep the former champion"
            )
        answers.append(
            {"name": probe.name, "class": probe.label, "difference": max(differences), "milliseconds": milliseconds}
        )
    return answers


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values[:10]]
