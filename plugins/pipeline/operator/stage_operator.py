"""The operator behind every stage task: builds one job, has a runtime run it, checks the result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from pipeline.operator.job import StageJob, container_environment, container_secrets, image_of, secret_keys
from pipeline.operator.links import MlflowRunLink, ReusedFromLink, TunedByLink, run_url
from pipeline.operator.outcome import StageOutcome, result_of
from pipeline.operator.params import LEFT_OUT, asked_of, require_known
from pipeline.operator.resources import resources_for
from pipeline.operator.rules import under_rules
from tasks.contract.messages import StageRequest, StageResult, TaskIdentity
from tasks.contract.policies_file import VARIABLE
from tasks.contract.resources import StageResources
from tasks.contract.stages import STAGES, parse_request
from tasks.errors import PermanentError, PipelineError, RequestError
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperatorLink, Context


class StageOperator(BaseOperator):
    """Runs one stage; a subclass says where.

    A mistake in a DAG file fails when the file is parsed, one in a DAG run's configuration before anything starts; both
    messages name the fix. A failure that would repeat is not retried. The checked result is the task's XCom, as a whole
    and by field, so that `task.output["run_id"]` is the upstream run ID of the next stage, with its type.
    """

    template_fields: Sequence[str] = ("request_fields", "environment")
    operator_extra_links: Collection[BaseOperatorLink] = (MlflowRunLink(),)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        stage: str,
        request_fields: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        fields = dict(request_fields or {})
        require_fields(stage, fields)
        if VARIABLE in (environment or {}):
            raise RequestError(f"environment: {VARIABLE} is the administrators' own; set it where Airflow runs")
        resources_for(stage, load_settings(), resources)
        super().__init__(multiple_outputs=True, **kwargs)
        self.stage = stage
        self.request_fields = fields
        # Not `resources`: Airflow's operators have an argument of that name, for executors.
        self.stage_resources = dict(resources or {})
        self.environment = dict(environment or {})
        declared = STAGES[stage]
        links: list[BaseOperatorLink] = [MlflowRunLink()]
        if declared.can_be_forced:
            links.append(ReusedFromLink())
        if "tuned_by" in declared.result.model_fields:
            links.append(TunedByLink())
        self.operator_extra_links = tuple(links)

    @abstractmethod
    def run_job(self, job: StageJob) -> StageOutcome:
        """Run the job to its end, with its output in the task's log; leave nothing running, whatever happens."""

    @abstractmethod
    def on_kill(self) -> None:
        """Stop what `run_job` started, within the five seconds that Airflow allows; may be called more than once."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage and return its result as JSON.

        Raises:
            AirflowSkipException: the DAG run leaves the stage out, or it had nothing to do, as its result says.
            AirflowFailException: it will fail the same way again; not retried.
            AirflowException: trying again may help.
        """
        if self.left_out(context["params"]):
            raise AirflowSkipException(f"this run does without {self.stage}: {self.stage}={LEFT_OUT}")
        try:
            result = self.run_stage(context)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from None
        except PipelineError as error:
            raise AirflowException(str(error)) from None
        if result.get("skipped"):
            # A skipped task returns nothing, but its link needs the result.
            context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, result)
            raise AirflowSkipException(result["skipped"])
        return result

    def run_stage(self, context: Context) -> dict[str, Any]:
        """Build the job, run it, check the result; failures are `tasks.errors`."""
        job = self.job(context)
        self.log.info("%s: request %s", job.stage, job.request.model_dump_json(exclude={"task"}))
        checked = result_of(job, self.run_job(job))
        figures = ", ".join(f"{k}={v}" for k, v in checked.shown.items() if k not in StageResult.model_fields)
        self.log.info("%s: done in %.1f s: %s", job.stage, checked.seconds, figures)
        result = checked.model_dump(mode="json")
        self.log.info("%s: MLflow run %s", job.stage, run_url(result, load_settings()))
        return result

    def job(self, context: Context) -> StageJob:
        """Build the job of this try; the first task of a DAG run checks the parameters of all of them.

        Raises:
            RequestError: the DAG run's configuration or the request is wrong.
            SettingsError: the environment is invalid.
        """
        instance, dag_run = context["ti"], context["dag_run"]
        if self.dag.params:
            require_known(dag_run.conf, self.dag.params)
        if not self.upstream_task_ids:
            check_stages(self.dag, context["params"])
        index = -1 if instance.map_index is None else instance.map_index
        user = getattr(dag_run, "triggering_user_name", None)
        request = self.request(context["params"], dag_run_id=instance.run_id, map_index=index, user=user)
        settings = load_settings()
        return StageJob(
            stage=self.stage,
            request=request,
            image=image_of(self.stage, settings),
            environment={**container_environment(self.stage, request, settings), **self.environment},
            private_environment=container_secrets(self.stage, request, settings),
            secret_keys=secret_keys(self.stage, settings),
            resources=self.limits(context["params"]),
            timeout=self.execution_timeout,
        )

    def request(
        self, params: Mapping[str, Any], *, dag_run_id: str, map_index: int = -1, user: str | None = None
    ) -> StageRequest:
        """Build the checked request: fields given in the DAG, then the DAG run's Params, then the defaults.

        Raises:
            RequestError: a value is invalid, or asks for less than the administrators' rules.
            SettingsError: these rules cannot be read.
        """
        task = TaskIdentity(
            dag_id=self.dag_id, dag_run_id=dag_run_id, task_id=self.task_id, map_index=map_index, user=user
        )
        asked = {**asked_of(self.stage, params), **self.request_fields, "task": task}
        request = under_rules(parse_request(self.stage, asked), load_settings())
        self.require_reachable(request)
        return request

    def require_reachable(self, request: StageRequest) -> None:
        """Refuse a request whose data this runtime does not give to a stage.

        Raises:
            RequestError: naming the field and the fix.
        """

    def check(self, params: Mapping[str, Any]) -> None:
        """Check what is known of the request before the DAG run; examples stand in for the outputs of earlier tasks.

        Raises:
            RequestError: a parameter is invalid, alone or together with the others, or asks for less than the
                administrators' rules.
            SettingsError: a resource cannot be used or is over its ceiling, or the rules cannot be read.
        """
        given = {name: value for name, value in self.request_fields.items() if not _comes_later(value)}
        task = TaskIdentity(dag_id=self.dag_id, dag_run_id="check", task_id=self.task_id)
        asked = asked_of(self.stage, params)
        asked = {name: value for name, value in asked.items() if name not in self.request_fields}
        request = parse_request(self.stage, {**STAGES[self.stage].upstream_examples, **asked, **given, "task": task})
        self.require_reachable(under_rules(request, load_settings()))
        self.limits(params)

    def limits(self, params: Mapping[str, Any]) -> StageResources:
        """What the stage may use in a DAG run with these Params.

        Raises:
            SettingsError: naming the stage and the field that cannot be used.
        """
        return resources_for(self.stage, load_settings(), self.stage_resources, params.get("resources"))

    def left_out(self, params: Mapping[str, Any]) -> bool:
        """Tell whether a DAG run with these Params does without this task."""
        return bool(params.get(self.stage) == LEFT_OUT)


def check_stages(dag: DAG, params: Mapping[str, Any]) -> None:
    """Check the parameters of every stage of a DAG run but those left out, before the first has spent an hour.

    Raises:
        RequestError: naming the invalid value and what is accepted.
    """
    for task in dag.tasks:
        if isinstance(task, StageOperator) and not task.left_out(params):
            task.check(params)


def _comes_later(value: Any) -> bool:
    """Tell whether a field of a request is an earlier task's output, or a template that Airflow renders."""
    return any(XComArg.iter_xcom_references(value)) or (isinstance(value, str) and "{{" in value)


def require_fields(stage: str, fields: Mapping[str, Any]) -> None:
    """Check what a DAG file asks for: the stage exists, required fields are given, every field belongs to its request.

    Raises:
        RequestError: naming the stage or field and what is accepted.
    """
    if stage not in STAGES:
        raise RequestError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
    known = {name: field for name, field in STAGES[stage].request.model_fields.items() if name != "task"}
    require_known(fields, known)
    for name, field in known.items():
        if field.is_required() and name not in fields:
            key = "run_id" if name.endswith("_run_id") else name
            raise RequestError(
                f"stage {stage!r} needs {name} from an earlier task; "
                f'write stage_task({stage!r}, {name}=earlier.output["{key}"])'
            )
