"""Run under `deploy forward`: make a version of a small model in the cluster's MLflow champion, and say which.

python -m tests.stack.kubernetes.champion ORDER       ORDER: 012, or another, for another model
python -m tests.stack.kubernetes.champion             only say it: version, run, digest of each file of the model
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from tasks.records import artifact_digest, registry
from tasks.records.model_store import artifact_sha256
from tests.tasks.serving.samples import MODEL, Brightness, log_model, promote


def main() -> None:
    # An address that MLflow signs is one of the cluster's.
    os.environ |= {f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}": "false" for way in ("UPLOAD", "DOWNLOAD")}
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}"
    client = MlflowClient()
    if len(sys.argv) > 1:
        if client.get_experiment_by_name("tests") is None:
            client.create_experiment("tests")
        run_id, uri = log_model(Brightness([int(place) for place in sys.argv[1]]))
        tags = {registry.SHA256: sys.argv[1], artifact_digest.TAG: artifact_sha256(uri)}
        promote(int(registry.create_version(MODEL, uri, run_id, tags, "").version))
    found = client.get_model_version_by_alias(MODEL, registry.CHAMPION)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{found.version}", dst_path=folder))
        files = sorted(path for path in model.rglob("*") if path.is_file() and path.name != "registered_model_meta")
        digests = {str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    print(json.dumps({"version": found.version, "run_id": found.run_id, "files": digests}))


if __name__ == "__main__":
    main()
