"""Demand on a limited key, and the evaluation of its admissions against one ideal bucket."""

import random
from collections.abc import Iterator, Sequence

import msgspec

MEAN_TOKENS = 1300


class Request(msgspec.Struct, frozen=True):
    """`at` in seconds; `bound`: max_tokens; `lasts`: seconds until the usage is known."""

    at: float
    prompt: int
    output: int
    bound: int
    lasts: float


class Admission(msgspec.Struct, frozen=True):
    at: float
    tokens: float


def requests(limit: float, times: float, seconds: float, seed: int) -> list[Request]:
    """Demand of `times` the limit. Bursts of four times the usual rate fill a quarter of the time."""
    return list(_requests(limit * times / 60 / MEAN_TOKENS, seconds, random.Random(seed)))


def _requests(per_second: float, seconds: float, rng: random.Random) -> Iterator[Request]:
    now, burst, turns = 0.0, False, rng.expovariate(1 / 6)
    quiet = per_second * 4 / 7
    while now < seconds:
        step = rng.expovariate(quiet * (4 if burst else 1))
        if now + step > turns:
            now, burst = turns, not burst
            turns += rng.expovariate(1 / (2 if burst else 6))
            continue
        now += step
        prompt = min(8000, int(rng.lognormvariate(6.5, 0.9))) + 20
        bound = rng.choice((1000, 2000, 4096))
        output = min(bound, int(rng.lognormvariate(5.4, 0.8)) + 5)
        yield Request(now, prompt, output, bound, 0.4 + output / 60)


def overshoot(admissions: Sequence[Admission], limit: float, full: float = 1.0) -> float:
    """Lowest level of one ideal bucket below zero, as a share of the limit. It is debited at admission with the actual
    tokens. `full`: initial level, as a share of the limit."""
    level, at, deepest = limit * full, 0.0, 0.0
    for admission in sorted(admissions, key=lambda admission: admission.at):
        level = min(limit, level + max(0.0, admission.at - at) * limit / 60) - admission.tokens
        at = admission.at
        deepest = max(deepest, -level)
    return deepest / limit


def possible(demand: Sequence[Request], limit: float, full: float = 1.0) -> float:
    """Tokens of the demand that the ideal bucket would admit."""
    level, at, admitted = limit * full, 0.0, 0.0
    for request in demand:
        level = min(limit, level + (request.at - at) * limit / 60)
        at, tokens = request.at, request.prompt + request.output
        if level >= tokens:
            level -= tokens
            admitted += tokens
    return admitted
