"""The task that asks a person before a model becomes champion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict

from pipeline.dag_parts.notifications import question

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, REJECT = "Approve", "Reject"
NOBODY = "nobody (no answer in time)"


class PromotionApproval(HITLOperator):
    """Shows the evidence and waits for a decision when the Param `require_approval` is set.

    Its XCom is the `approval` of register's request: empty when nobody had to be asked, because the Param is not set
    or the gate has refused the model. No answer in time counts as a rejection.
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
        """Ask, or return at once when there is nothing to ask."""
        if not context["params"]["require_approval"]:
            self.log.info("require_approval is not set: no approval needed")
            return {}
        if not self.promote:
            self.log.info("the gate refused the model: no approval needed")
            return {}
        self.body = self.table
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Turn the answer into the `approval` of register's request."""
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"]
        return {
            "approved": answer["chosen_options"] == [APPROVE],
            "by": (user["name"] or user["id"]) if user else NOBODY,
            "at": answer["responded_at"].isoformat(),
            "comment": answer["params_input"].get("comment") or "",
        }
