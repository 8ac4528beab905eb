"""What the service runs: a model that SERVING_MODEL names may be one that neither an alias nor the ledger knows."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from mlflow.entities.model_registry import ModelVersion

from tasks.errors import UnavailableError
from tasks.serving import client, model_reference
from tasks.serving.model_reference import Kind
from tasks.settings import Runtime, Settings


class Served:
    """The models in service, by the setting and by what the servers answer; asked once, when it matters."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is asked yet."""
        self._settings = settings

    def has(self, run_id: str, model_uri: str, versions: Collection[ModelVersion]) -> bool:
        """Tell whether a model is in service.

        Args:
            run_id: the run that logged it.
            model_uri: `models:/m-...`.
            versions: its versions.

        Raises:
            SettingsError: SERVING_MODEL names no model, or another program answers at SERVING_URL.
            UnavailableError: in the stack or on a cluster, the service does not answer.
        """
        names = {run_id, model_uri.removeprefix("models:/")}
        names |= {f"{version.name}/{version.version}" for version in versions}
        return bool(names & self._names)

    @cached_property
    def _names(self) -> set[str]:
        settings = self._settings
        chosen = model_reference.parse(settings.serving_model, settings.serving_registered_model)
        number = chosen.kind is Kind.VERSION
        names = {f"{chosen.registered_model}/{chosen.name}" if number else chosen.name}
        for answer in self._answers():
            names |= {f"{answer['registered_model']}/{answer['model_version']}", str(answer["run_id"])}
        return names

    def _answers(self) -> list[dict[str, object]]:
        key = self._settings.serving_api_key
        try:
            servers = client.replicas(self._settings.serving_url, key.get_secret_value() if key else None)
            answers = [(server.url, server.info()) for server in servers]
        except UnavailableError:
            if self._settings.pipeline_runtime is not Runtime.LOCAL:
                raise
            return []  # on a laptop it often does not run, and then it serves nothing
        silent = [url for url, answer in answers if answer is None]
        if silent and self._settings.pipeline_runtime is not Runtime.LOCAL:
            raise UnavailableError(
                f"the service at {silent[0]} does not answer, so nobody can say what it serves; nothing was removed"
            )
        return [answer for _, answer in answers if answer is not None]
