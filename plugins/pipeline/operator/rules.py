"""The administrators' rules, applied to a request before its stage starts.

A run that asks for too little stops at once. register applies them again, by its own environment: that is what counts.
"""

from __future__ import annotations

from typing import Any

from tasks.contract.gate_policy import GatePolicy
from tasks.contract.messages import StageRequest
from tasks.contract.policies_file import rules_for
from tasks.contract.promotion import RegisterRequest
from tasks.settings import Settings


def under_rules(request: StageRequest, settings: Settings) -> StageRequest:
    """Return the request with the floors for its registered model, and with approval where that is required.

    Raises:
        RequestError: a limit of the gate was set to ask for less than its floor.
        SettingsError: the rules cannot be read.
    """
    if not isinstance(request, GatePolicy | RegisterRequest):
        return request
    given: Any = request
    rules = rules_for(given.registered_model, settings)
    if rules is None:
        return request
    if isinstance(request, RegisterRequest):
        return request.model_copy(update={"require_approval": request.require_approval or rules.approval_required})
    rules.require(given.policy)
    return request.model_copy(update=dict(rules.applied(given.policy)))
