"""Calls whose usage, or its price, no answer reports: they would go past a token quota or a budget. Pure."""

from shared.config.document import Configuration
from shared.errors import UnmeteredOperation
from shared.limits import scopes
from shared.types import Call, Consumer

_OPERATIONS = frozenset(
    (
        "fine_tuning.jobs.create",
        "fine_tuning.graders.run",
        "evals.runs.create",
        # Their sessions go on between the caller and Azure.
        "realtime.client_secrets",
        "realtime.sessions",
        "realtimeapi.sessions",
        "realtime.transcription_sessions",
        "realtimeapi.transcription_sessions",
        "realtime.calls.create",
        "realtime.calls.accept",
    )
)


def check(consumer: Consumer, call: Call, configuration: Configuration, now: float) -> None:
    """Raise `UnmeteredOperation` for a call whose usage cannot be counted, if its key, team or model has a token quota
    or a budget. `now`: in seconds since 1970."""
    unmetered = call.operation.name in _OPERATIONS
    others = _other_models(call, configuration) if call.operation.format == "anthropic" else []
    if not unmetered and not others:
        return
    for scope in scopes.of_call(consumer, configuration.served(call.model[:128], now), configuration, call.user):
        if unmetered and (scope.limits.token_quota or scope.limits.budget_usd):
            raise UnmeteredOperation(
                f"{scope.about} has a token quota or a budget, and the gateway cannot count what "
                f"{call.operation.name} uses. Ask the gateway's operator for a key without them."
            )
        if scope.limits.budget_usd and others:
            raise UnmeteredOperation(
                f"{scope.about} has a budget, and the gateway prices all tokens of a message by one model: leave out "
                f"{', '.join(others)}, or ask the gateway's operator for a key without a budget."
            )


def _other_models(call: Call, configuration: Configuration) -> list[str]:
    """The models that a message asks besides its own: advisors, which are priced by themselves, and fallbacks."""
    own = configuration.canonical(call.model) if call.batch is None else ""  # a batch itself has no model
    return [name[:128] for name in call.other_models if configuration.canonical(name) != own]
