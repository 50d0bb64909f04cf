"""What was used, in money: the arithmetic of prices. Pure.

Money is counted in whole picodollars: prices per million tokens have no more than six decimals, so that every cost, and
every sum of costs, is exact in whatever order it is added.
"""

from typing import NamedTuple, Protocol

import msgspec

USD = 10**12  # picodollars


class Price(msgspec.Struct, frozen=True):
    """Picodollars per token, second, character and image. None: no such price.

    Cached, audio and image tokens are part of the input, reasoning, audio and image tokens part of the output; those
    without a price of their own are charged as the rest."""

    input: int | None
    cached_input: int | None
    audio_input: int | None
    image_input: int | None
    output: int | None
    reasoning: int | None
    audio_output: int | None
    image_output: int | None
    image: int | None
    second: int | None
    character: int | None


class Used(Protocol):
    """What is charged: a call's `Usage`, or sums of it."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def cached_input_tokens(self) -> int: ...
    @property
    def audio_input_tokens(self) -> int: ...
    @property
    def image_input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def audio_output_tokens(self) -> int: ...
    @property
    def image_output_tokens(self) -> int: ...
    @property
    def images(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def characters(self) -> int: ...


class Part(NamedTuple):
    """So much of one class, each at so many picodollars."""

    name: str
    amount: float
    each: int

    @property
    def picodollars(self) -> int:
        return round(self.amount * self.each)


_INPUT = tuple((name, f"{name}_tokens") for name in ("cached_input", "audio_input", "image_input"))
_OUTPUT = tuple((name, f"{name}_tokens") for name in ("reasoning", "audio_output", "image_output"))
_UNITS = (("image", "images"), ("second", "seconds"), ("character", "characters"))


def cost(price: Price | None, used: Used) -> int | None:
    """What this use costs, in picodollars; None when a price is missing. Using nothing costs nothing."""
    found = parts(price, used)
    return None if found is None else sum(part.picodollars for part in found)


def parts(price: Price | None, used: Used) -> list[Part] | None:
    """What is charged for this use, class by class; None when a price is missing.

    Images, seconds and characters that have no price of their own are in the tokens, where there are any."""
    found: list[Part] = []
    if used.input_tokens or used.output_tokens:
        if price is None:
            return None
        if not _split(found, price, "input", used.input_tokens, _INPUT, used):
            return None
        if not _split(found, price, "output", used.output_tokens, _OUTPUT, used):
            return None
    for name, field in _UNITS:
        if amount := getattr(used, field):
            each = getattr(price, name) if price is not None else None
            if each is not None:
                found.append(Part(name, amount, each))
            elif not (used.input_tokens or used.output_tokens):
                return None
    return found


def _split(
    found: list[Part], price: Price, rest: str, tokens: int, classes: tuple[tuple[str, str], ...], used: Used
) -> bool:
    """Adds the tokens of the classes that have a price of their own, then the rest; whether all have a price. Classes
    may overlap (cached sound), so never more tokens than there are."""
    for name, field in classes:
        count, each = min(getattr(used, field), tokens), getattr(price, name)
        if count and each is not None:
            found.append(Part(name, count, each))
            tokens -= count
    each = getattr(price, rest)
    if tokens and each is not None:
        found.append(Part(rest, tokens, each))
    return not tokens or each is not None


def usd(picodollars: int) -> float:
    return picodollars / USD


def exactly(picodollars: int) -> str:
    """The same as decimal digits, all of them."""
    sign, amount = "-" if picodollars < 0 else "", abs(picodollars)
    return f"{sign}{amount // USD}.{amount % USD:012d}".rstrip("0").rstrip(".")
