"""The time until a target must show its first content, and until a slow attempt is hedged. Pure."""

import functools
import re

from shared.config.document import Timeouts
from shared.types import Call, Target

_REASONING = re.compile(r"(?:^|[-_/])(?:o[1-9]|gpt-?5)(?![0-9])", re.I)


def first_byte_timeout(call: Call, target: Target, timeouts: Timeouts) -> float:
    """Return the seconds within which a target must show its first content.

    A stream or a vector comes quickly. A whole completion takes as long as its tokens. A reasoning model may think for
    minutes first, so that only the deadline of the call tells it from a target that hangs. An image is drawn and a
    recording heard before there is any content, streamed or not.
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
    """Return the seconds after which a slow attempt is hedged: the 95th percentile (`usual`, in milliseconds), or a
    quarter of the limit if too few answers are known."""
    return limit / 4 if usual is None else min(usual / 1000, limit)


@functools.lru_cache(maxsize=1024)
def _is_reasoning(model: str) -> bool:
    return _REASONING.search(model) is not None
