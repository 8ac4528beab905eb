"""Runs one stage in this process: request in, MLflow run around it, result file out, exit code back."""

from __future__ import annotations

import importlib
import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from tasks.contract.messages import ReusableRequest, StageResult
from tasks.contract.stages import STAGES, parse_request
from tasks.errors import PipelineError, ResultError
from tasks.records.transient_errors import as_unavailable
from tasks.runner import faults, result_file
from tasks.settings import load_settings

RESULT_PATH = Path("/airflow/xcom/return.json")
TERMINATED = 128 + signal.SIGTERM

log = logging.getLogger("tasks")


def run_stage(stage: str, request: str, result_path: Path = RESULT_PATH) -> int:
    """Run `stage` on a JSON request and write its JSON result as the last act.

    Returns:
        The process's exit code: 0, or the code of the failure (see `tasks.errors`). A failure with a known cause
        is logged as one line; an unknown one with its traceback, exit code 1.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        faults.arm(stage)
        result_path.unlink(missing_ok=True)  # the result of an earlier try must not pass for this one's
        result = execute(stage, request)
        result_file.write(result, result_path)
    except PipelineError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    except SystemExit:
        log.error("%s was asked to stop (SIGTERM)", stage)
        return TERMINATED
    except Exception as error:
        away = as_unavailable(error)
        if away is not None:
            log.error("UnavailableError: %s", away)
            return away.exit_code
        log.exception("%s failed", stage)
        return 1
    log.info("%s done in %.1f s: %s", stage, result.seconds, json.dumps(result.shown))
    return 0


def execute(stage: str, request: str) -> StageResult:
    """Parse the request, open the stage's MLflow run, resolve its inputs, reuse an earlier result or run the stage.

    Raises:
        RequestError: unknown stage, or a request that does not fit its model.
        ResultError: the stage returned another type than the table of stages declares.
    """
    parsed = parse_request(stage, request)
    declared = STAGES[stage]
    settings = load_settings()
    # Imported here: a stage's image holds only what that stage needs, and a bad request should not wait for torch.
    from tasks.records import tracking

    with tracking.stage_run(parsed, stage, settings) as run:
        inputs = result = None
        if declared.inputs is not None:
            module, _, name = declared.inputs.partition(":")
            inputs = getattr(importlib.import_module(module), name).resolve(parsed, run)
            if isinstance(parsed, ReusableRequest):
                from tasks.reuse import earlier_results

                result = earlier_results.take_earlier(declared, parsed, inputs, run)
        if result is None:
            work = importlib.import_module(f"tasks.stages.{stage}").run
            result = work(parsed, run, settings) if inputs is None else work(parsed, inputs, run, settings)
        if not isinstance(result, declared.result):
            raise ResultError(f"{stage} returned {type(result).__name__}; it must return {declared.result.__name__}")
        tracking.record_result(run, result)
        handed_over = tracking.handed_over(result.run_id, declared.hands_over)
    return result.model_copy(update={"tags": handed_over})


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
