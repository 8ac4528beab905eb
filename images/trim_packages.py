"""Removes from the service's packages what it never reads, and compiles what it imports: see `images/Dockerfile`.

Runs in the image, while it is built; standard library only. An entry that matches nothing fails the build, so that the
list stays true when a package changes. `SERVICE` is imported afterwards, so that nothing needed is gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

# Patterns below site-packages, and why the service does without.
UNUSED = {
    "onnxruntime/capi/libonnxruntime.so.*": "the same library for programs in C; Python's module has a copy inside",
    "onnxruntime/quantization": "makes models",
    "onnxruntime/tools": "makes models",
    "onnxruntime/transformers": "makes models",
    "cryptography": "MLflow's client needs it for Databricks",
    "databricks/sdk/service": "the API of Databricks",
    "**/tests": "tests of packages",
    "tornado/test": "tests of a package",
    "**/*.pyi": "types, for checkers",
    "**/*.pyx": "sources of compiled modules",
    "**/*.c": "sources of compiled modules",
    "**/*.h": "sources of compiled modules",
}
# What the service imports from its start to an answer: only this is compiled. The rest, most of MLflow's and NumPy's
# modules, is larger than its sources and never read.
SERVICE = (
    "_bentoml_impl.server.app",
    "_bentoml_sdk.service",
    "bentoml",
    "google.protobuf.message_factory",
    "httpcore",
    "httpx",
    "mlflow.artifacts",
    "mlflow.models",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "mlflow.store.artifact.models_artifact_repo",
    "mlflow.store.artifact.runs_artifact_repo",
    "mlflow.store.model_registry.rest_store",
    "mlflow.store.tracking.rest_store",
    "mlflow.tracking.request_header.registry",
    "numpy.typing",
    "onnxruntime",
    "opentelemetry.instrumentation.asgi",
    "pi_heif",
    "PIL.AvifImagePlugin",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.ImageCms",
    "PIL.ImageOps",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
    "PIL.WebPImagePlugin",
    "prometheus_client.multiprocess",
    "pydantic._internal._serializers",
    "pydantic_settings",
    "python_multipart",
    "starlette.middleware.cors",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)


def trim(packages: Path, patterns: Iterable[str]) -> int:
    """Remove what matches the patterns; return the bytes that this frees.

    Raises:
        FileNotFoundError: a pattern matches nothing.
    """
    freed = 0
    for pattern in patterns:
        found = sorted(packages.glob(pattern))
        if not found:
            raise FileNotFoundError(f"{pattern} matches nothing in {packages}; take it off the list")
        for path in found:
            if path.is_dir():
                freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
            elif path.exists():
                freed += path.stat().st_size
                path.unlink()
    return freed


def compile_what_is_imported(modules: Iterable[str]) -> None:
    """Import modules in a process that may write bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    subprocess.run(command, check=True, env=environment)  # noqa: S603


if __name__ == "__main__":
    site_packages = Path(sysconfig.get_path("purelib"))
    print(f"removed {trim(site_packages, UNUSED) / 1e6:.0f} MB that the service does not need")
    compile_what_is_imported(SERVICE)
