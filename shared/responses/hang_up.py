"""The end of a call whose caller disconnects before its answer."""

from shared.azure_openai import metering
from shared.types import LEFT, Attempt, Call, Outcome, Usage

HUNG_UP = 499  # nobody receives it; it is the status on record of such a call


def hung_up(call: Call, attempts: tuple[Attempt, ...], milliseconds: int) -> Outcome:
    """The outcome of a call whose caller disconnected before its answer. The backend that was working on it has read
    the prompt, and charges for that and for what it has generated; charges of others are in their attempts."""
    at_work = next((one for one in reversed(attempts) if one.problem in ("", LEFT)), None)
    return Outcome(
        status=HUNG_UP,
        usage=metering.unanswered(call) if at_work is not None else Usage(),
        attempts=attempts,
        served_by=at_work.target if at_work is not None else None,
        total_ms=milliseconds,
        ended="hung_up",
        quiet_seconds=at_work.milliseconds / 1000 if at_work is not None else 0.0,
    )
