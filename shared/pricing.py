"""What tokens cost, in USD per million: list prices of global standard deployments. Pure.

Source: Azure Retail Prices, snapshot of 2026-08-11. A model that is not here has no price, and says so.
"""

import re

import msgspec

from shared.types import Usage


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens."""

    input: float
    cached_input: float
    output: float


_PRICES = {
    "gpt-4o": Price(2.5, 1.25, 10),
    "gpt-4o-mini": Price(0.15, 0.075, 0.6),
    "gpt-4.1": Price(2, 0.5, 8),
    "gpt-4.1-mini": Price(0.4, 0.1, 1.6),
    "gpt-4.1-nano": Price(0.1, 0.025, 0.4),
    "o3": Price(2, 0.5, 8),
    "o4-mini": Price(1.1, 0.275, 4.4),
    "gpt-5": Price(1.25, 0.125, 10),
    "gpt-5.1": Price(1.25, 0.125, 10),
    "gpt-5-mini": Price(0.25, 0.025, 2),
    "gpt-5-nano": Price(0.05, 0.005, 0.4),
    "gpt-5.2": Price(1.75, 0.175, 14),
    "gpt-5.4": Price(2.5, 0.25, 15),
    "gpt-5.4-mini": Price(0.75, 0.075, 4.5),
    "gpt-5.5": Price(5, 0.5, 30),
    "gpt-5.6-sol": Price(5, 0.5, 30),
    "gpt-5.6-terra": Price(2.5, 0.25, 15),
    "gpt-5.6-luna": Price(1, 0.1, 6),
    "text-embedding-3-small": Price(0.02, 0.02, 0),
    "text-embedding-3-large": Price(0.13, 0.13, 0),
}
_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4})$")


def price(model: str) -> Price | None:
    """The price of a model, dated names included; None where none is known."""
    return _PRICES.get(model) or _PRICES.get(_DATED.sub("", model))


def cost(price: Price, usage: Usage) -> float:
    """What a call cost, in USD. Cached tokens are part of the input, reasoning tokens of the output."""
    fresh = usage.input_tokens - usage.cached_input_tokens
    return (
        fresh * price.input + usage.cached_input_tokens * price.cached_input + usage.output_tokens * price.output
    ) / 1e6
