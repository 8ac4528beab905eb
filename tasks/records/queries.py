"""The questions to MLflow that may have many answers: runs, versions and logged models by their tags.

Only here MLflow's searches are called. A question is either for the newest or first (one result), or for all: then
every page is read. None has a limit after which something would be overlooked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.entities import PagedList

from tasks.records.paging import FEW, PAGE, all_pages

PRESENT = None  # as the value of a tag: any that is not empty
Tags = Mapping[str, str | None]


def newest_run(experiment_id: str, tags: Tags, *, status: str | None = None) -> Run | None:
    """Return the run with all `tags` that started last; of those that started in the same millisecond always the same.

    Args:
        experiment_id: where to search.
        tags: names and values; `PRESENT` as a value means any.
        status: only runs in this status.
    """
    order, text = ["attributes.start_time DESC"], _conditions(tags, status)
    # limit: the newest one is the answer
    found = MlflowClient().search_runs([experiment_id], text, ViewType.ACTIVE_ONLY, max_results=1, order_by=order)
    return found[0] if found else None


def find_runs(experiment_id: str, tags: Tags, *, status: str | None = None) -> Iterator[Run]:
    """Yield all runs that have all `tags`, newest first; the caller may stop early. Arguments as in `newest_run`."""
    return _runs(experiment_id, _conditions(tags, status), newest_first=True, first=FEW)


def all_runs(
    experiment_id: str,
    tags: Tags,
    *,
    status: str | None = None,
    started: int | None = None,
    ended: int | None = None,
) -> Iterator[Run]:
    """Yield all runs with all `tags`, the oldest first.

    Args:
        experiment_id: where to search.
        tags: names and values; `PRESENT` as a value means any.
        status: only runs in this status.
        started: only runs that started then or later, in milliseconds since 1970.
        ended: only runs that ended then or later.
    """
    times = {"start_time": started, "end_time": ended}
    later = [f"attributes.{name} >= {time}" for name, time in times.items() if time is not None]
    text = " and ".join(filter(None, [_conditions(tags, status), *later]))
    return _runs(experiment_id, text, newest_first=False, first=PAGE)


def find_versions(
    registered_model: str | None = None, tags: Tags | None = None, numbers: range | None = None
) -> Iterator[ModelVersion]:
    """Yield the versions of a registered model, or of all, that have all `tags`, the lowest numbers first.

    Args:
        registered_model: its name; None for all registered models.
        tags: names and values; `PRESENT` as a value means any.
        numbers: only versions in this range.
    """
    client = MlflowClient()
    conditions = [f"name = '{registered_model}'"] if registered_model else []
    conditions += [_condition(name, value) for name, value in (tags or {}).items()]
    if numbers is not None:
        conditions += [f"version_number >= {numbers.start}", f"version_number < {numbers.stop}"]

    def search(size: int, begin: int | None) -> PagedList[ModelVersion]:
        where = [*conditions, *([] if begin is None else [f"version_number >= {begin}"])]
        # limit: the size of a page
        return client.search_model_versions(" and ".join(where), max_results=size, order_by=["version_number ASC"])

    return all_pages(search, lambda found: int(found.version), lambda found: (found.name, found.version))


def newest_version_of_run(registered_model: str, run_id: str) -> ModelVersion | None:
    """Return the version with the highest number of those whose model a run trained."""
    text, order = f"name = '{registered_model}' and run_id = '{run_id}'", ["version_number DESC"]
    # limit: the newest one is the answer
    found = MlflowClient().search_model_versions(text, max_results=1, order_by=order)
    return found[0] if found else None


def logged_models(experiment_id: str, run_id: str) -> list[LoggedModel]:
    """List the logged models of a run."""
    client, order = MlflowClient(), [{"field_name": "creation_timestamp", "ascending": True}]

    def search(size: int, begin: int | None) -> PagedList[LoggedModel]:
        text = f"source_run_id = '{run_id}'" + ("" if begin is None else f" and creation_timestamp >= {begin}")
        # limit: the size of a page
        return client.search_logged_models([experiment_id], text, max_results=size, order_by=order)

    return list(all_pages(search, lambda found: found.creation_timestamp, lambda found: found.model_id))


def _runs(experiment_id: str, text: str, *, newest_first: bool, first: int) -> Iterator[Run]:
    client, start = MlflowClient(), "attributes.start_time"
    direction, comparison = ("DESC", "<=") if newest_first else ("ASC", ">=")
    order = [f"{start} {direction}"]  # those of the same millisecond come by their ID

    def search(size: int, begin: int | None) -> PagedList[Run]:
        where = " and ".join([*([text] if text else []), *([] if begin is None else [f"{start} {comparison} {begin}"])])
        # limit: the size of a page
        return client.search_runs([experiment_id], where, ViewType.ACTIVE_ONLY, max_results=size, order_by=order)

    return all_pages(search, lambda run: int(run.info.start_time), lambda run: str(run.info.run_id), first)


def _conditions(tags: Tags, status: str | None = None) -> str:
    found = [_condition(name, value) for name, value in tags.items()]
    return " and ".join([*found, *([f"attributes.status = '{status}'"] if status else [])])


def _condition(name: str, value: str | None) -> str:
    return f"tags.`{name}` != ''" if value is PRESENT else f"tags.`{name}` = '{value}'"
