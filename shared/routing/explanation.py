"""The reasons for a route, in words for the caller."""

from collections.abc import Sequence

from shared.routing.breakers import Breakers
from shared.types import Attempt, Target

_LONGEST_HEADER = 2000  # characters; some proxies take no more than 4 kB of headers


def notes(
    usable: list[Target], rest: list[Target], prefix: bytes | None, tokens: float, breakers: Breakers
) -> list[str]:
    """The reasons for this order of the targets, in a few words each."""
    now = breakers.clock()
    first = "chosen by its prompt cache" if prefix is not None else "chosen by turn"
    reasons = [f"{usable[0].model} on {usable[0].backend.name}: {first}"] if usable else []
    reasons += [
        f"{target.backend.name}: quota too low for {tokens:.0f} tokens"
        for target in usable[1:]
        if breakers.refuses(target, tokens, now)
    ]
    for target in rest:
        health = breakers.health(target)
        until, word = max((health.ejected_until, "ejected"), (health.cooling_until, "cooling"))
        reasons.append(f"{target.backend.name}: {word} for {max(until - now, 0):.1f} s ({health.reason})")
    return reasons


def explained(notes: Sequence[str], attempts: Sequence[Attempt]) -> str:
    """The decisions and tries on one line, as the value of a header."""
    tries = [
        f"{attempt.role} {i}: {attempt.target.model} on {attempt.target.backend.name}, "
        f"{attempt.problem or attempt.status} after {attempt.milliseconds:.0f} ms"
        for i, attempt in enumerate(attempts, 1)
    ]
    line = "; ".join([*notes, *tries])
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[:_LONGEST_HEADER]
