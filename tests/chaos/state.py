"""What MLflow, its store and the service hold, as one flat table, so that two tries of a step can be compared.

Run and model IDs are replaced by what they stand for (`run chaos/day1/train/-1`), so that the same work done under
another ID is the same, and a second run of a stage is an extra entry. What may differ is masked, in one list.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

State = dict[str, str]
SHOWN = 1000
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")

# (entries, what is masked in their values or None for the value as a whole, why it may differ)
ALLOWED: tuple[tuple[str, str | None, str], ...] = (
    (r"", r"(?<![\d.])1[789]\d{11}(?!\d)", "times in milliseconds since 1970"),
    (r"", r"\b20\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z|\+00:00)?)?", "dates and times"),
    (r"", r"http://127\.0\.0\.1:\d+", "each job has a service of its own"),
    (
        r"metric (.*seconds|images_per_second|data_wait_share|.*latency.*|batch_images_per_second|peak_memory_mb)@",
        None,
        "measured",
    ),
    (r"metric deploy/(wait_seconds|request_milliseconds|largest_difference)@", None, "measured"),
    (r"tag pipeline.result", r'"(seconds|images_per_second)": ?[\d.e+-]+', "measured"),
    (r"^result \| (seconds|images_per_second)", None, "measured"),
    (r"artifact answers.json", r'"(milliseconds|difference)": ?[\d.e+-]+', "measured"),
    (
        r"(artifact (evidence|verdict)\.json|^result \| table|evaluate \| tag pipeline.result)",
        r"\d+(\.\d+)?(e[+-]\d+)?",
        "latencies, memory; accuracies and versions are compared as metrics, fields of the result and tags",
    ),
    (
        r"tag pipeline.result",
        r'"started": ?(true|false)',
        "whether this try had to start the service: the first one did",
    ),
    (r"^result \| started", None, "the same"),
    (r"artifact trials\.csv", r"(?<=,)\d+\.\d\d(?=,run )", "seconds of a trial"),
    (r"artifact plots/curves\.png", None, "draws the share of time waiting for data; its other values are metrics"),
    (r"artifact report\.html", None, "shows latencies and memory; what it is made from is compared separately"),
    (r"tag pipeline.sha256.(evidence|verdict).", None, "over measured latencies; the files are compared"),
    (
        r"tag pipeline.checkpoints_sha256",
        None,
        "over seconds per epoch; the weights are compared by the model's digest",
    ),
    (r"clean \| metric removed", None, "what an earlier try removed is not found again: of the last try"),
    (r"clean \| tag pipeline.result", r'"(removed":\s*\{[^}]*\}|megabytes":\s*[\d.e+-]+)', "the same"),
    (r"^result \| (removed|megabytes)", None, "the same"),
    (r"tag ledger.previous", r"[0-9a-f]{64}$", "over the ID and time of the record before"),
    (r"artifact checkpoints/", None, "holds seconds per epoch; the weights are compared by the model's digest"),
    (
        r"tag pipeline.artifact_sha256",
        None,
        "over a file with the model's ID and time; the weights' digest is compared",
    ),
)
# Each try of a cleaning lists what it removed in a file of its own, which its time names.
OF_ONE_TRY = re.compile(r"run .* clean \| artifact \d{8}T\d{6}-removed\.json")
# What a retry measures again is a further step of the metric, not the same one twice
# (`tasks.records.metric_log.log_values`).
AGAIN = re.compile(
    r"(run .* (prepare|evaluate|deploy|clean)|model of .*) \| metric "
    r"(removed(_megabytes)?|.*seconds|.*latency.*|batch_images_per_second|peak_memory_mb|deploy/(request_milliseconds|largest_difference))"
    r"@[1-9]\d*$"
)


def read(service: dict[str, Any] | None, rewrite: Callable[[str], str]) -> State:
    """Read everything, with `rewrite` applied to every text; in a child process only (see `tests.chaos.forks`)."""
    client = MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = sorted(client.search_runs(experiments, max_results=5000), key=lambda run: run.info.start_time)
    models = client.search_logged_models(experiments, max_results=1000) if experiments else []
    names = _names(runs, models)
    state: State = {}
    for run in runs:
        state |= {f"{names[run.info.run_id]} | {k}": v for k, v in _run(client, run).items()}
    for model in models:
        state |= {f"{names[model.model_id]} | {k}": v for k, v in _model(model).items()}
    for registered in client.search_registered_models():
        for alias, version in registered.aliases.items():
            state[f"alias {registered.name}@{alias}"] = str(version)
        for version in client.search_model_versions(f"name = '{registered.name}'"):
            about = {"source": version.source, "run": version.run_id, "status": version.status}
            about |= {"description": version.description} | {f"tag {k}": v for k, v in version.tags.items()}
            state |= {f"version {registered.name}/{version.version} | {k}": str(v) for k, v in about.items()}
    if service is not None:
        about = {name: service[name] for name in ("registered_model", "model_version", "run_id", "problem")}
        state |= {f"service | {name}": str(value) for name, value in about.items()}
    named = {rewrite(key): rewrite(_named(str(value), names)) for key, value in sorted(state.items())}
    named = {key: value for key, value in named.items() if not OF_ONE_TRY.fullmatch(key)}
    masked = {key: _mask(key, value) for key, value in named.items()}
    return {
        key: value if len(value) <= SHOWN else f"SHA-256 {_digest(value.encode())}" for key, value in masked.items()
    }


def of_result(result: dict[str, Any]) -> State:
    """A stage's result; the IDs of its run and its model differ in every try of the first step."""
    tags = result.get("tags") or {}
    flat = {k: v for k, v in result.items() if k != "tags"} | {f"tag {k}": v for k, v in tags.items()}
    named = {k: "ID" if k == "run_id" else MODEL_ID.sub("ID", str(v)) for k, v in flat.items()}
    return {f"result | {k}": _mask(f"result | {k}", v) for k, v in named.items()}


def unfinished(*ended: str) -> list[str]:
    """Runs of stages that have none of the statuses `ended`; in a child process only."""
    client = MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments, max_results=5000) if "pipeline.key" in run.data.tags]
    return [f"{r.data.tags['pipeline.key']} is {r.info.status}" for r in runs if r.info.status not in ended]


def _names(runs: list[Run], models: list[LoggedModel]) -> dict[str, str]:
    """What each ID stands for; where two stand for the same, the later one is `... (2)`."""
    names: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for run in runs:
        tags = run.data.tags
        if "ledger.key" in tags:
            what = f"ledger {tags['ledger.key']} {tags['ledger.kind']} {tags['ledger.candidate_sha256'][:12]}"
        else:
            what = f"run {tags.get('pipeline.key', run.info.run_name)} {tags.get('pipeline.stage', '')}".strip()
        names[run.info.run_id] = _numbered(what, seen)
    for model in sorted(models, key=lambda model: model.creation_timestamp):
        names[model.model_id] = _numbered(f"model of {names.get(model.source_run_id, 'no run')}", seen)
    return names


def _numbered(what: str, seen: Counter[str]) -> str:
    seen[what] += 1
    return what if seen[what] == 1 else f"{what} ({seen[what]})"


def _run(client: MlflowClient, run: Run) -> dict[str, str]:
    about = {"status": run.info.status, "lifecycle": run.info.lifecycle_stage, "name": run.info.run_name}
    about |= {f"param {k}": v for k, v in run.data.params.items()} | {f"tag {k}": v for k, v in run.data.tags.items()}
    for key in run.data.metrics:
        at: dict[int, list[float]] = {}
        for metric in client.get_metric_history(run.info.run_id, key):
            at.setdefault(metric.step, []).append(metric.value)
        for step, values in at.items():
            # A step that was sent twice is an extra entry.
            about |= {f"metric {key}@{step}{f' ({n})' if n else ''}": repr(value) for n, value in enumerate(values)}
    for data in run.inputs.dataset_inputs if run.inputs else []:
        contexts = ",".join(sorted(tag.value for tag in data.tags))
        about[f"input {data.dataset.name} {contexts}"] = data.dataset.digest
    for number, model in enumerate(run.outputs.model_outputs if run.outputs else []):
        about[f"output {number}"] = model.model_id
    return about | _artifacts(run.info.artifact_uri)


def _model(model: LoggedModel) -> dict[str, str]:
    about = {"status": str(model.status), "name": model.name, "run": str(model.source_run_id)}
    about |= {f"tag {k}": v for k, v in model.tags.items()} | {f"param {k}": v for k, v in model.params.items()}
    about |= {f"metric {metric.key}@{metric.step}": repr(metric.value) for metric in model.metrics or []}
    return about | _artifacts(model.artifact_location)


def _artifacts(uri: str) -> dict[str, str]:
    if not mlflow.artifacts.list_artifacts(artifact_uri=uri):
        return {}
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            try:
                text = data.decode()
            except UnicodeDecodeError:
                text = f"SHA-256 {_digest(data)}"
            found[f"artifact {path.relative_to(folder).as_posix()}"] = text
    return found


def _named(value: str, names: dict[str, str]) -> str:
    return re.sub(r"m-[0-9a-f]{32}|[0-9a-f]{32}", lambda found: names.get(found[0], found[0]), value)


def _mask(key: str, value: str) -> str:
    for entries, part, _ in ALLOWED:
        if re.search(entries, key):
            value = re.sub(part, "*", value) if part else "*"
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
