"""Check what runs in the cluster: workloads, MLflow's login, the model of every serving pod, the rights of tasks.

Changes nothing. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.kubernetes import rights
from deploy.kubernetes.cluster import BEFORE, Cluster, ClusterError
from deploy.kubernetes.rollout import blocked_by
from deploy.kubernetes.up import AIRFLOW, EXPORT, OURS

# Run in the pods, whose images have Python. The login goes to standard input, so no list of processes shows it.
ASK_MLFLOW = """
import base64, json, sys, urllib.error, urllib.request
user, password, model = json.load(sys.stdin)
login = base64.b64encode(f"{user}:{password}".encode()).decode()
url = f"http://127.0.0.1:5000/api/2.0/mlflow/registered-models/alias?name={model}&alias=champion"
request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
try:
    answer = urllib.request.urlopen(request, timeout=20)
    print(json.dumps({"champion": json.load(answer)["model_version"]["version"]}))
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code}))
"""
ASK_SERVING = """
import json, os, urllib.request
key = os.environ.get("SERVING_API_KEY")
headers = {"Authorization": f"Bearer {key}"} if key else {}
request = urllib.request.Request("http://127.0.0.1:3000/get_model_info", method="POST", headers=headers)
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    subject: str
    state: str
    well: bool


def workload(found: Mapping[str, Any]) -> Line:
    """Judge a Deployment, a StatefulSet or a Job by its status."""
    kind, name, status = str(found["kind"]), found["metadata"]["name"], found.get("status", {})
    subject = f"{kind.lower()}/{name}"
    if kind == "Job":
        done = bool(status.get("succeeded"))
        return Line(subject, "done" if done else f"not done, {status.get('failed', 0)} tries failed", done)
    if before := found["metadata"].get("annotations", {}).get(BEFORE):
        text = f"had {before} pods, stopped by a restore that did not finish; run make kubernetes-restore again"
        return Line(subject, text, False)
    ready, wanted = status.get("readyReplicas", 0), found["spec"].get("replicas", 1)
    behind = wanted - status.get("updatedReplicas", 0)
    text = f"{ready} of {wanted} ready" + (f", {behind} of them not updated yet" if behind > 0 else "")
    return Line(subject, text, ready == wanted and behind <= 0)


def champion(answer: Mapping[str, Any]) -> tuple[Line, str | None]:
    """Judge MLflow's answer about the champion; return the version, too."""
    if "champion" in answer:
        version = str(answer["champion"])
        return Line("mlflow", f"accepts the login of .env; champion is version {version}", True), version
    if answer["status"] == 404:
        return Line("mlflow", "accepts the login of .env; there is no champion yet", True), None
    if answer["status"] == 401:
        fix = "refuses the login of .env; run make kubernetes-up, with which MLflow takes it over"
        return Line("mlflow", fix, False), None
    return Line("mlflow", f"answers with status {answer['status']}; see its log", False), None


def replica(pod: str, info: Mapping[str, Any], wanted: str | None) -> Line:
    """Judge what a pod of the service says about itself."""
    version = None if info["model_version"] is None else str(info["model_version"])
    said = "has no model" if version is None else f"serves version {version}"
    said += f" ({info['problem']})" if info.get("problem") else ""
    return Line(f"pod/{pod}", said, version == wanted)


def tasks_rights(cluster: Cluster) -> Line:
    """Judge what Airflow's tasks may do in the platform's namespace: they start their stages in another."""
    subject = f"serviceaccount/{rights.ACCOUNT}"
    try:
        found = rights.excess(cluster)
    except ClusterError as error:
        return Line(subject, f"not checked ({error})", True)
    if found:
        fix = "run make kubernetes-up and make kubernetes-airflow, which take it away"
        return Line(subject, f"may {', '.join(found)} in namespace {cluster.namespace}; {fix}", False)
    return Line(subject, f"reaches no pod and no Secret of namespace {cluster.namespace}", True)


def verify(cluster: Cluster, values: Mapping[str, str]) -> list[Line]:
    """Run every check; return a line for each.

    Raises:
        ClusterError: the cluster does not answer, or the namespace holds nothing of ours.
    """
    kinds = "deployments,statefulsets,jobs"
    found = cluster.objects(kinds, OURS)
    if not found:
        raise ClusterError(f"namespace {cluster.namespace} holds nothing of ours; run make kubernetes-up")
    version: str | None = None
    lines: list[Line] = []
    try:
        login = [values.get("MLFLOW_TRACKING_USERNAME"), values.get("MLFLOW_TRACKING_PASSWORD")]
        asked = json.dumps([*login, _model(cluster)])
        answer = json.loads(cluster.python("deployment/mlflow", ASK_MLFLOW, container="mlflow", text=asked))
        line, version = champion(answer)
        lines.append(line)
    except (ClusterError, json.JSONDecodeError) as error:
        lines.append(Line("mlflow", f"does not answer ({error})", False))
    for pod in cluster.objects("pods", "app.kubernetes.io/name=serving"):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        name = str(pod["metadata"]["name"])
        try:
            info = json.loads(cluster.python(f"pod/{name}", ASK_SERVING, container="serving"))
            lines.append(replica(name, info, version))
        except (ClusterError, json.JSONDecodeError) as error:
            lines.append(Line(f"pod/{name}", f"does not answer ({error})", False))
    # Without a champion no serving pod is ready, and that is no fault. Nor is an export that still works, perhaps on a
    # node that has to fetch its image first: whether the champion is served, each pod of the service says.
    waiting = {"deployment/serving"} if version is None else set()
    waiting |= {f"job/{EXPORT}" for one in found if _works_still(one)}
    judged = []
    for line in (workload(one) for one in [*found, *cluster.objects(kinds, AIRFLOW)]):
        well = line.well or line.subject in waiting
        why = "" if well else blocked_by(cluster, line.subject)
        judged.append(Line(line.subject, f"{line.state}; {why}" if why else line.state, well))
    return [*judged, *lines, tasks_rights(cluster)]


def _works_still(found: Mapping[str, Any]) -> bool:
    """Whether this is the Job that exports to ONNX, and none of its tries has failed."""
    job = found["kind"] == "Job" and found["metadata"]["name"] == EXPORT
    return job and not found.get("status", {}).get("failed")


def _model(cluster: Cluster) -> str:
    settings = json.loads(cluster.run("get", "configmap", "settings", "--output", "json"))["data"]
    return str(settings.get("SERVING_REGISTERED_MODEL") or "vision-classifier")


def report(cluster: Cluster, values: Mapping[str, str]) -> int:
    """Print a line for each check; return 0 when all is well, else 1.

    Raises:
        ClusterError: as `verify`.
    """
    lines = verify(cluster, values)
    width = max(len(line.subject) for line in lines)
    for line in lines:
        print(f"{'ok  ' if line.well else 'FAIL'}  {line.subject:<{width}}  {line.state}")
    return 0 if all(line.well for line in lines) else 1
