"""The time until a target must show its first content, and until a slow attempt is hedged. Pure."""

import functools
import re

from shared.config.document import Model, Timeouts
from shared.types import Call, Target

_EMBEDDING = 20.0  # seconds
_COLD_HEDGE = 10.0  # seconds
_QUICK = re.compile(r"gpt-?(?:3\.?5|4)(?![0-9.])|gpt-4[.]1", re.I)  # families that write at once
_THINKING = re.compile(r"(?:^|[-_/])(?:o[1-9]|gpt-?[5-9]|model-router)(?![0-9])", re.I)


def first_byte_timeout(call: Call, target: Target, timeouts: Timeouts, settings: Model, left: float) -> float:
    """Return the seconds within which a target must show its first content; `left`: those left for the whole call.

    The time is long, since a model may think for minutes, and a deployment that hangs is noticed by its silence. It is
    short for what is known to be quick: as configured, embeddings, and bounded answers of models that write at once.
    Streamed or not makes no difference: a caller of a stream is as patient as another.
    """
    if settings.first_byte is not None:
        return min(settings.first_byte, left)
    if timeouts.first_byte is not None:
        return min(timeouts.first_byte, left)
    if call.operation.name == "embeddings":
        return min(_EMBEDDING, left)
    names = (target.model, target.deployment, *settings.aliases)
    if call.operation.metered == "tokens" and call.max_output_tokens is not None and _is_quick(names):
        return min(_EMBEDDING + 0.05 * call.max_output_tokens, left)
    return left


def hedge_delay(usual: float | None, limit: float) -> float:
    """Return the seconds after which a slow attempt is hedged: the 95th percentile (`usual`, in milliseconds), or a
    quarter of the limit, at most 10 s, if too few answers are known."""
    return min(limit / 4, _COLD_HEDGE) if usual is None else min(usual / 1000, limit)


@functools.lru_cache(maxsize=1024)
def _is_quick(names: tuple[str, ...]) -> bool:
    """Return True if the name of the model says that it writes at once, and no other name says that it thinks."""
    return _QUICK.search(names[0]) is not None and not any(map(_THINKING.search, names))
