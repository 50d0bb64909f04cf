"""How long a target may take until it shows something, by what it has to do first. Pure."""

import functools
import re

from shared.config.document import Timeouts
from shared.types import Call, Target

_REASONING = re.compile(r"(?:^|[-_/])(?:o[1-9]|gpt-?5)(?![0-9])", re.I)


def first_byte_timeout(call: Call, target: Target, timeouts: Timeouts) -> float:
    """Seconds within which a target has to show its first content, by what it has to do first.

    A stream or a vector shows quickly. A whole completion takes as long as its tokens. A reasoning model may think for
    minutes before either; nothing but the deadline of the call can tell it from one that hangs. An image is drawn
    and a recording heard before anything can be shown, streamed or not.
    """
    if timeouts.first_byte is not None:
        limit = timeouts.first_byte
    elif _is_reasoning(target.model) or _is_reasoning(target.deployment):
        limit = 120.0 if call.stream else timeouts.total
    elif call.operation.metered in ("images", "audio"):
        limit = 120.0
    elif call.stream:
        limit = 20.0
    elif call.operation.name == "embeddings":
        limit = 10.0
    else:
        limit = min(60.0, 15.0 + 0.05 * (call.max_output_tokens if call.max_output_tokens is not None else 1000))
    return min(limit, timeouts.total)


def hedge_delay(usual: float | None, limit: float) -> float:
    """Seconds after which a slow try is doubled by one elsewhere: what all but 5 % of the answers take (`usual`, in
    milliseconds), or a quarter of the limit where too few are known."""
    return limit / 4 if usual is None else min(usual / 1000, limit)


@functools.lru_cache(maxsize=1024)
def _is_reasoning(model: str) -> bool:
    return _REASONING.search(model) is not None
