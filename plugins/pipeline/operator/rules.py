"""The administrators' rules, applied to a request before its stage starts.

A run that asks for too little stops at once. register applies them again, by its own environment: that is what counts.
"""

from __future__ import annotations

from tasks.contract.messages import StageRequest
from tasks.contract.policies_file import rules_for
from tasks.contract.promotion import EvaluateRequest, RegisterRequest
from tasks.settings import Settings


def under_rules(request: StageRequest, settings: Settings) -> StageRequest:
    """Return the request with the floors for its registered model, and with approval where that is required.

    Raises:
        RequestError: a limit of the gate was set to ask for less than its floor.
        SettingsError: the rules cannot be read.
    """
    if isinstance(request, EvaluateRequest) and (rules := rules_for(request.registered_model, settings)):
        rules.require(request.policy)
        return request.model_copy(update=dict(rules.applied(request.policy)))
    if isinstance(request, RegisterRequest) and (rules := rules_for(request.registered_model, settings)):
        return request.model_copy(update={"require_approval": request.require_approval or rules.approval_required})
    return request
