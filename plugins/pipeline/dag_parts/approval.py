"""The task that asks a person before a model becomes champion."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from pipeline.dag_parts.notifications import question
from tasks.contract.policies import Rules
from tasks.contract.policies_file import rules_for
from tasks.errors import SettingsError
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, REJECT = "Approve", "Reject"
NOBODY = "nobody (no answer in time)"


class PromotionApproval(HITLOperator):
    """Shows the evidence and waits for a decision where the Param `require_approval` or the rules ask for one.

    Its XCom is the `approval` of register's request: empty when nobody had to be asked, because nothing asks for it
    or the gate has refused the model. No answer in time counts as a rejection. An approval by somebody who may not give
    it does not count, and the question stays open. Anybody who may answer may reject.
    """

    template_fields: Sequence[str] = (*HITLOperator.template_fields, "promote", "table")

    def __init__(self, *, model: str, promote: Any, table: Any, **kwargs: Any) -> None:
        """`model` says what it is; `promote` (the gate's verdict) and `table` (its evidence) are evaluate's outputs."""
        params = ParamsDict(kwargs.pop("params", None) or {})  # Airflow passes the DAG's own
        params["comment"] = Param("", type="string", description="Kept in the ledger.", source="task")
        super().__init__(
            subject=f"Promote this {model} to champion of {{{{ params.registered_model }}}}?",
            body="",
            options=[APPROVE, REJECT],
            defaults=REJECT,
            notifiers=question,
            params=params,
            response_timeout=kwargs.pop("response_timeout", timedelta(days=3)),
            **kwargs,
        )
        self.model = model
        self.promote = promote
        self.table = table

    def execute(self, context: Context) -> Any:
        """Ask, or return at once when there is nothing to ask.

        Raises:
            AirflowFailException: the administrators' rules cannot be read.
        """
        rules = _rules(context["params"])
        if not context["params"]["require_approval"] and not (rules and rules.approval_required):
            self.log.info("require_approval is not set, and no rule asks for it: no approval needed")
            return {}
        if not self.promote:
            self.log.info("the gate refused the model: no approval needed")
            return {}
        self.body = f"{self.table}\n\nRules: `{rules.text}`" if rules else self.table
        return self._ask(context, hashlib.sha256(self.table.encode()).hexdigest())

    def execute_complete(self, context: Context, event: dict[str, Any], shown: str | None = None) -> dict[str, Any]:
        """Turn the answer into the `approval` of register's request, or ask again where it does not count.

        Args:
            context: of the task.
            event: the answer.
            shown: SHA-256 of the evidence that was on the page; None where an earlier release asked.
        """
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"]
        by = (user["name"] or user["id"]) if user else NOBODY
        approved = answer["chosen_options"] == [APPROVE]
        rules = _rules(context["params"])
        if approved and rules and rules.approval:
            started_by = getattr(context["dag_run"], "triggering_user_name", None)
            if objection := rules.approval.objection(by, started_by):
                self.log.warning("this approval does not count, the question stays open: %s", objection)
                return self._ask(context, shown)  # Airflow keeps the page as it is
        return {
            "approved": approved,
            "by": by,
            "at": answer["responded_at"].isoformat(),
            "comment": answer["params_input"].get("comment") or "",
            "evidence": shown,
        }

    def _ask(self, context: Context, shown: str | None) -> dict[str, Any]:
        """Wait for an answer; `shown` goes on to `execute_complete`."""
        try:
            # Unwrapped: Airflow warns of an `execute` that an operator calls itself.
            asked: dict[str, Any] = inspect.unwrap(HITLOperator.execute)(self, context)
            return asked
        except TaskAwaitingInput as waits:
            raise TaskAwaitingInput(
                method_name=waits.method_name, kwargs={"shown": shown}, timeout=waits.timeout
            ) from None


def _rules(params: Mapping[str, Any]) -> Rules | None:
    try:
        return rules_for(params["registered_model"], load_settings())
    except SettingsError as error:
        raise AirflowFailException(str(error)) from None
