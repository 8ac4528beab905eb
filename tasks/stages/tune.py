"""tune: search for the best hyperparameters of a network on the gold tensors."""

from __future__ import annotations

import csv
import io
import logging

import mlflow
from mlflow import MlflowClient

from tasks.contract.recipe import Hyperparameters
from tasks.contract.training import TuneRequest, TuneResult
from tasks.errors import RequestError
from tasks.records import gold_store, trained_weights, tuned_sets
from tasks.records.inputs.training import TuneInputs
from tasks.records.inputs.weights import keep_choices
from tasks.records.metric_log import log_values
from tasks.records.tracking import ERROR_TAG, StageRun, use_datasets
from tasks.records.tuned_sets import TunedSet
from tasks.search import table
from tasks.search.earlier_trial import State
from tasks.search.plots import figures
from tasks.search.search import Start, remove_state, run_search
from tasks.search.table import TrialRow
from tasks.settings import Settings
from tasks.vision.models import onnx_form
from tasks.vision.training.basis import basis_of

BEST_TRIAL = "pipeline.best_trial"  # tag of the best trial's run; on the tune run, its number
BEST_RUN = "pipeline.best_trial_run_id"  # tag of the tune run
REASONS = 3

log = logging.getLogger("tasks.tune")


def run(request: TuneRequest, inputs: TuneInputs, run: StageRun, settings: Settings) -> TuneResult:
    """Search, or resume the search that an earlier try of this stage began in the run.

    Raises:
        RequestError: no machine has the CPUs or GPUs of one trial, or every trial failed.
        DataError: the gold is missing or damaged.
        UnavailableError: no Ray cluster, MLflow or storage answers.
    """
    data = inputs.data
    gold = gold_store.open_made_by(data.gold_run_id, data.gold_sha256, settings)
    use_datasets(run, data.prepare_run_id, "training", "validation")
    mlflow.set_tags(
        {
            table.METRIC: request.metric,
            "pipeline.prepare_run_id": data.prepare_run_id,
            "pipeline.gold_run_id": data.gold_run_id,
            "pipeline.fingerprint": gold.fingerprint,
        }
    )
    keep_choices(run.run_id, inputs.networks, inputs.weights)
    basis = basis_of(gold, inputs.weights, gpu=request.trial_gpus > 0)  # a trial may run on another machine
    request = request.settled(basis)
    side = request.input_side or max(gold.shape[1:])
    onnx_form.require(inputs.networks, len(gold.classes), (gold.shape[0], side, side))
    run_search(
        request,
        run,
        settings,
        Start(gold, data, basis, {name: trained_weights.load(chosen) for name, chosen in inputs.weights.items()}),
    )
    rows = table.read(run.run_id)
    best = table.best_trial(rows, request.metric)
    if best is None or best.best_value is None:
        raise RequestError(
            f"all {len(rows)} trials failed: {_reasons(rows)}; change search_space or the parameters that are set"
        )
    _keep(rows, best, request.metric)
    recipe = request.recipe(basis, best.values)
    chosen = Hyperparameters(**{name: getattr(recipe, name) for name in Hyperparameters.model_fields})
    tuned_sets.keep(TunedSet(run.run_id, gold.dataset, recipe.model, chosen))
    remove_state(run, settings)
    return TuneResult(
        **run.result_fields,
        model=recipe.model,
        hyperparameters=chosen,
        metric=request.metric,
        best_value=best.best_value,
        best_trial=best.number,
        **{state: sum(row.state == state for row in rows) for state in (State.FINISHED, State.STOPPED, State.FAILED)},
        epochs=sum(row.epochs for row in rows),
    )


def _keep(rows: list[TrialRow], best: TrialRow, metric: str) -> None:
    """Write the table and its plots to the tune run, and mark the best trial."""
    mlflow.log_text(as_csv(rows, metric), "trials.csv")
    for name, figure in figures(rows, metric).items():
        mlflow.log_figure(figure, f"plots/{name}.png", save_kwargs={"dpi": 120})
    log_values({f"best_{metric}": float(best.best_value or 0.0)})
    MlflowClient().set_tag(best.run_id, BEST_TRIAL, "true")
    mlflow.set_tags({BEST_TRIAL: str(best.number), BEST_RUN: best.run_id})


def as_csv(rows: list[TrialRow], metric: str) -> str:
    """Write the trials as CSV, one line each."""
    names = sorted({name for row in rows for name in row.values})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "rung", "epochs", metric, *names, "seconds", "run_id"])
    for row in rows:
        chosen = [row.values.get(name, "") for name in names]
        writer.writerow(
            [row.number, row.state, row.rung, row.epochs, row.best_value, *chosen, f"{row.seconds:.2f}", row.run_id]
        )
    return text.getvalue()


def _reasons(rows: list[TrialRow]) -> str:
    """Collect the first reasons why trials failed."""
    client = MlflowClient()
    first = [row for row in rows if row.state == State.FAILED][:REASONS]
    told = [client.get_run(row.run_id).data.tags.get(ERROR_TAG, "no reason was recorded") for row in first]
    return "; ".join(dict.fromkeys(told)) or "no trial ran"
