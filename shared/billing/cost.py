"""The cost of usage by prices. Pure.

Money is counted in whole picodollars. Prices per million tokens have at most six decimals, so every cost and every sum
of costs is exact, in any order.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from shared.token_classes import REPORTED, TOKEN_CLASSES, UNITS, TokenCounts, price_name
from shared.types import Usage
from shared.usage.folds import Counts

USD = 10**12  # picodollars


class Price(msgspec.Struct, frozen=True):
    """Picodollars per token of each class, and per unit (`UNITS`). A name that is missing has no price.

    A class without a price is charged as the rest of its total (`token_classes.py`)."""

    each: dict[str, int]

    @property
    def input(self) -> int | None:
        return self.each.get("input")

    @property
    def output(self) -> int | None:
        return self.each.get("output")


class Part(NamedTuple):
    """The charge for one class or unit: `each` is in picodollars."""

    name: str
    amount: float
    each: int

    @property
    def picodollars(self) -> int:
        return round(self.amount * self.each)


_PARTS_OF = {
    total: tuple(field for field in REPORTED if TOKEN_CLASSES[field].part_of == total) for total in ("input", "output")
}


def cost(price: Price | None, used: Usage | Counts) -> int | None:
    """The cost of this use in picodollars; None if a price is missing. No use costs 0."""
    charged = parts(price, used)
    return None if charged is None else sum(part.picodollars for part in charged)


def parts(price: Price | None, used: Usage | Counts) -> list[Part] | None:
    """The charges for this use, class by class; None if a price is missing.

    Images, seconds and characters without a price are included in the tokens, if there are any. Calls of tools are
    charged beside the tokens, those without a price not at all."""
    each = price.each if price is not None else {}
    charged: list[Part] = []
    for total in ("input", "output"):
        split = _split(each, total, used)
        if split is None:
            return None
        charged += split
    for field, unit in UNITS.items():
        if amount := getattr(used, field):
            if unit.price in each:
                charged.append(Part(unit.price, amount, each[unit.price]))
            elif not (unit.tool or used.input_tokens or used.output_tokens):
                return None
    return charged


def _split(each: Mapping[str, int], total: str, used: TokenCounts) -> list[Part] | None:
    """The tokens of the classes that have a price, then the rest; None if the rest has none. Classes may overlap, as
    cached audio does, so the parts never exceed the total."""
    charged: list[Part] = []
    left: int = getattr(used, f"{total}_tokens")
    for field in _PARTS_OF[total]:
        name, tokens = price_name(field), min(getattr(used, field), left)
        if tokens and name in each:
            charged.append(Part(name, tokens, each[name]))
            left -= tokens
    if left:
        if total not in each:
            return None
        charged.append(Part(total, left, each[total]))
    return charged


def exactly(picodollars: int) -> str:
    """USD as a decimal number with all digits."""
    sign, amount = "-" if picodollars < 0 else "", abs(picodollars)
    return f"{sign}{amount // USD}.{amount % USD:012d}".rstrip("0").rstrip(".")
