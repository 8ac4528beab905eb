"""Stores pretrained weights in MLflow, from a hub or a file: `python -m tasks weights`, `make weights`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tasks.contract.networks import NOT_STATED, find
from tasks.errors import DataError, RequestError
from tasks.files import sha256
from tasks.records import tracking, weights_store
from tasks.records.inputs import weights_sources
from tasks.settings import load_settings

NO_LICENCE = {None, "", "unknown"}  # as timm has it


def keep(model: str, file: Path | None, licence: str | None) -> None:
    """Fetch the weights of a network, check them and store them, unless the same are stored already.

    Args:
        model: the network's name in a request.
        file: a file with its weights; None: those of the hub.
        licence: of the weights; None: as the table of networks or timm states it.

    Raises:
        RequestError: the network is unknown or has no weights to store.
        DataError: the file is missing, damaged, or of another network.
        SettingsError: the hub asks for a token.
        UnavailableError: the hub or MLflow does not answer.
    """
    constructor = _constructor(model)
    if file is not None and not file.is_file():
        raise DataError(f"FILE={str(file)!r} does not exist; give a .safetensors file")
    # From this machine MLflow's server is reached, but not always the store behind it.
    os.environ |= {f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}": "false" for way in ("UPLOAD", "DOWNLOAD")}
    experiment_id = tracking.connect(load_settings())
    from tasks.cli import weights_file  # torch and timm take seconds, and what is wrong above needs neither
    from tasks.vision.models import weights

    weights_file.described(model, constructor)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        path = Path(folder) / weights_store.FILE
        if file is None:
            source, stated = _from_hub(model, constructor, path)
        else:
            source, stated = f"file {file.name}", NOT_STATED
            if weights.kind(file) == "safetensors":
                shutil.copyfile(file, path)
            else:
                weights_file.convert(file, path)
        weights_file.require(path, source, constructor)
        digest, size = sha256(path), path.stat().st_size / 1e6
        terms = licence or stated
        run_id, written = weights_store.store(path, model, digest, terms, source, experiment_id)
    done = "stored" if written else "stored already"
    print(f"weights of {model}: {done}, from {source} ({size:.1f} MB, SHA-256 {digest[:12]}..., licence: {terms})")
    print(f"MLflow run {run_id}; a training of model={model} starts from them")
    if terms == NOT_STATED:
        print("state their licence with LICENCE=..., and it will be in the model card")


def _constructor(model: str) -> str:
    """Return a network's name in timm.

    Raises:
        RequestError: there is no such network, or no weights of it to store.
    """
    try:
        network = find(model)
    except ValueError as error:
        raise RequestError(f"MODEL={model!r}: {error}") from error
    if network.family != "timm":
        raise RequestError(f"MODEL={model!r} has no pretrained weights; choose a network of timm")
    if packaged := weights_sources.packaged(model):
        raise RequestError(
            f"MODEL={model!r} has its weights with the software ({packaged}); use others with "
            '`make run CONF=\'{"weights": "FILE or s3://BUCKET/KEY"}\'`'
        )
    return network.constructor


def _from_hub(model: str, constructor: str, path: Path) -> tuple[str, str]:
    """Fetch the file of the repository that timm names; return where it came from, and its licence."""
    from tasks.cli import hub, weights_file

    about = weights_file.described(model, constructor)
    if about is None or not about.hf_hub_id:
        raise RequestError(f"MODEL={model!r} has no weights on a hub; give FILE=")
    with tempfile.TemporaryDirectory(prefix="hub-") as folder:
        fetched, commit = hub.fetch(about.hf_hub_id, Path(folder))
        shutil.move(fetched, path)
    known = find(model).weights_licence
    by_timm = NOT_STATED if about.license in NO_LICENCE else str(about.license)
    return f"hub {about.hf_hub_id} {commit[:12]}", by_timm if known == NOT_STATED else known
