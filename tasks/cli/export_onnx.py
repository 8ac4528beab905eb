"""Exports a version of an earlier release to ONNX, once: `python -m tasks export-onnx`, `make export-onnx`.

After an upgrade, Compose and Kubernetes run it once, in the image of train, for what the service follows.
"""

from __future__ import annotations

from tasks.errors import ModelError
from tasks.records import registry, tracking
from tasks.serving.model_reference import Kind, Reference, parse
from tasks.serving.resolution import resolve
from tasks.settings import Settings


def export(settings: Settings, version: int | None = None) -> str:
    """Export the version that SERVING_MODEL names, or another one, if it has no ONNX form; say what was done.

    Raises:
        ModelError: there is no such version, its files are missing or damaged, or it answers otherwise in ONNX.
        DataError: it has no reference predictions.
        SettingsError: SERVING_MODEL names no model.
        UnavailableError: MLflow does not answer.
    """
    name = settings.serving_registered_model
    text = str(version) if version is not None else settings.serving_model
    reference = parse(text, name)
    tracking.connect(settings)
    if _is_awaited(reference):
        return f"{reference.registered_model} has no {reference.name} yet; nothing to do"
    target = resolve(reference)
    if target.registered_model is None or target.version is None:
        raise ModelError(f"SERVING_MODEL={text!r} names no registered version to give an ONNX form; name a version")
    from tasks.serving import onnx_export  # it takes seconds to import, and what is wrong above does not need it

    return onnx_export.ensure(registry.by_number(target.registered_model, target.version))


def _is_awaited(reference: Reference) -> bool:
    """Whether a reference is an alias that no version has yet: a new installation, before its first promotion."""
    return reference.kind is Kind.ALIAS and registry.by_alias(reference.registered_model, reference.name) is None
