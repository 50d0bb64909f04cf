"""The price of a call, from a dated table. Pure, except for reading the table once.

`prices.json` has Azure's public prices, then those of OpenAI that Azure's list lacks or that hold for OpenAI itself,
and Anthropic's, with their sources (`local/price_table.py` generates it). The `prices` of the configuration override
it. An unknown price is None, never zero.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import msgspec

from shared.billing.cost import USD, Price
from shared.config.days import since_seconds
from shared.config.document import Backend
from shared.config.prices import Deployment, PriceLine
from shared.token_classes import AMOUNTS, TOKEN_CLASSES, TOKEN_PRICES, TOOL_PRICES, price_name
from shared.types import US, Target, Usage, long_context

TABLE = Path(__file__).with_name("prices.json")

_STANDARD = frozenset(("", "standard", "default", "auto"))  # the standard tier, in the words of backends
_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")
_STAGE = re.compile(r"-(?:latest|preview)$")
_ALIASES = {  # other names -> the name of the price
    "gpt-4-1106-preview": "gpt-4-turbo",
    "gpt-4-0125-preview": "gpt-4-turbo",
    "gpt-4-turbo-vision-preview": "gpt-4-turbo",
    "gpt-4-vision-preview": "gpt-4-turbo",
    "whisper-1": "whisper",
    "tts-1": "tts",
    "tts-1-hd": "tts-hd",
    "claude-opus-4": "claude-opus-4-0",
    "claude-sonnet-4": "claude-sonnet-4-0",
    "grok-4-fast-non-reasoning": "grok-4-fast",
    "grok-4-fast-reasoning": "grok-4-fast",
    "llama-3.3-70b-instruct": "llama-3.3-70b",
    "llama-4-maverick-17b-128e-instruct-fp8": "llama-4-maverick-17b",
}
# Models from before Claude Opus 4.6 and Sonnet 4.6, whose price does not depend on the place where they run.
_WITHOUT_PLACES = re.compile(r"claude-(?:[23]|v1|instant|\w+-4-[0-5](?!\d))")
CONFIGURED = "configuration"  # the source of a price

_Key = tuple[str, str, Deployment, str, str, bool, int]


class _Conditions(TypedDict, total=False):
    """The place and the way of a call, as `Prices.of` describes them."""

    served: str
    backend: str
    region: str
    tier: str
    long: bool
    deployment: Deployment


class SourcedLine(NamedTuple):
    """A line with its source. `since`: seconds since 1970 from which it applies."""

    source: str
    since: int
    line: PriceLine

    @property
    def configured(self) -> bool:
        return self.source == CONFIGURED


class Prices:
    """All prices: the lines of the configuration before those of the table."""

    def __init__(self, configured: Sequence[PriceLine] = (), backends: Iterable[Backend] = ()) -> None:
        self._configured = configured
        self._backends = {backend.name: backend for backend in backends}
        self._known: dict[_Key, Price | None] = {}

    @functools.cached_property
    def _lines(self) -> dict[str, list[SourcedLine]]:
        """All lines by model."""
        by_model: dict[str, list[SourcedLine]] = {}
        for source, lines in ((CONFIGURED, self._configured), *((group.source, group.prices) for group in _table())):
            for line in lines:
                by_model.setdefault(_normal(line.model), []).append(
                    SourcedLine(source, since_seconds(line.since), line)
                )
        return by_model

    @functools.cached_property
    def changes(self) -> list[int]:
        """The times at which a price changes, in seconds since 1970, earliest first."""
        return sorted({entry.since for lines in self._lines.values() for entry in lines})

    def next_change(self, at: float) -> float:
        """The first time after `at` at which a price changes, in seconds since 1970; infinite if there is none."""
        return next((change for change in self.changes if change > at), math.inf)

    def of(self, model: str, at: float, **conditions: Unpack[_Conditions]) -> Price | None:
        """The price of a model at a time on a backend; if the backend is not configured, on such a deployment.

        `served` and `tier` are as the backend reported them. The order: the configuration's price of the model; the
        price of the served model, by its full name, then without its date; the table's price of the model. A model
        without a price for long context has one price for all."""
        key = self._key(model, at, **conditions)
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self._find(key, at)
        return self._known[key]

    def line(self, model: str, at: float, **conditions: Unpack[_Conditions]) -> SourcedLine | None:
        """The line that has the price of a model, by the same rules."""
        return self._find_line(self._key(model, at, **conditions), at)

    def _key(
        self,
        model: str,
        at: float,
        *,
        served: str = "",
        backend: str = "",
        region: str = "",
        tier: str = "",
        long: bool = False,
        deployment: Deployment = "global",
    ) -> _Key:
        configured = self._backends.get(backend)
        deployment = configured.priced_as(model) if configured else deployment
        return model, served, deployment, configured.region if configured else region, tier, long, self._epoch(at)

    def of_call(self, usage: Usage, target: Target, at: float) -> Price | None:
        """The price of a call, by the usage that the backend reported."""
        return self.of(
            target.model,
            at,
            served=usage.model,
            backend=self.serving(target.backend.name, target.deployment),
            tier=usage.service_tier,
            long=usage.long if usage.summed else usage.input_tokens > long_context(usage.model),
        )

    def serving(self, backend: str, deployment: str) -> str:
        """The backend whose prices hold for a deployment. When a provisioned one is full, Azure may spill a call over
        to a pay-as-you-go deployment of the same resource: another backend, if it is configured."""
        origin = self._backends.get(backend)
        if origin is None or not origin.provisioned or deployment in origin.deployments.values():
            return backend
        others = (other for other in self._backends.values() if not other.provisioned)
        return next(
            (one.name for one in others if one.endpoint == origin.endpoint and deployment in one.deployments.values()),
            backend,
        )

    def dearest(self, model: str, at: float, tier: str = "") -> Price | None:
        """The highest price of a model on the backends that serve it, to reserve before one is chosen."""
        prices = [
            self.of(model, at, backend=name, tier=tier)
            for name, backend in self._backends.items()
            if model in backend.models
        ]
        known = [price for price in prices or [self.of(model, at, tier=tier)] if price is not None]
        return max(known, key=lambda price: (price.output or 0, price.input or 0), default=None)

    def of_any_model(self, name: str, deployment: Deployment, region: str, at: float) -> int | None:
        """A price that does not depend on the model, as `unit_hour`, in picodollars; None if unknown."""
        best = self.line_of_any_model(name, deployment, region, at)
        return round(getattr(best.line, name) * USD) if best else None

    def line_of_any_model(self, name: str, deployment: Deployment, region: str, at: float) -> SourcedLine | None:
        """The line that has it."""
        lines = (entry for entry in self._lines.get("", ()) if getattr(entry.line, name) is not None)
        return self._best(lines, deployment, _normal(region), at)

    def _find(self, key: _Key, at: float) -> Price | None:
        if (entry := self._find_line(key, at)) is None:
            return None
        tools = ((name, self.of_any_model(name, key[2], key[3], at)) for name in TOOL_PRICES)
        price = _resolved(entry.line, {name: each for name, each in tools if each is not None})
        one_price = entry.configured or _WITHOUT_PLACES.match(_normal(entry.line.model))
        return _in_the_us(price) if _ran_in_us(key[4]) and not one_price else price

    def _find_line(self, key: _Key, at: float) -> SourcedLine | None:
        model, served, deployment, region, tier, long, _ = key
        tier = _without_place(tier.lower())
        tier = "standard" if tier in _STANDARD else tier
        for lines in self._candidates(_normal(model), _normal(served)):
            for context in ("long", "short") if long else ("short",):
                fitting = (entry for entry in lines if entry.line.tier == tier and entry.line.context == context)
                if (best := self._best(fitting, deployment, _normal(region), at)) is not None:
                    return best
        return None

    def _candidates(self, model: str, served: str) -> Iterator[list[SourcedLine]]:
        yield [entry for entry in self._lines.get(model, ()) if entry.configured]
        for name in filter(None, (served, model)):
            undated = _DATED.sub("", name)
            for other in dict.fromkeys((name, undated, _ALIASES.get(undated, undated), _STAGE.sub("", undated))):
                yield self._lines.get(other, [])

    @staticmethod
    def _best(lines: Iterable[SourcedLine], deployment: Deployment, region: str, at: float) -> SourcedLine | None:
        fitting = [
            (entry.configured, bool(line.regions), bool(line.deployment), entry.since, number, entry)
            for number, entry in enumerate(lines)
            if entry.since <= at
            and (line := entry.line).deployment in (None, deployment)
            and (not line.regions or region in map(_normal, line.regions))
        ]
        return max(fitting, key=lambda entry: entry[:5])[5] if fitting else None

    def _epoch(self, at: float) -> int:
        """The number of price changes so far: prices with the same number are the same."""
        return sum(change <= at for change in self.changes) if at < self.changes[-1] else len(self.changes)


class _Group(msgspec.Struct, frozen=True):
    """The lines of one public source, as of a day."""

    publisher: str
    day: str
    prices: list[PriceLine]

    @property
    def source(self) -> str:
        return f"{self.publisher}, {self.day}"


@functools.cache
def _table() -> list[_Group]:
    return msgspec.json.decode(TABLE.read_bytes(), type=list[_Group])


_PER_MILLION = frozenset((*TOKEN_PRICES, "character"))


def _resolved(line: PriceLine, tools: dict[str, int]) -> Price:
    """The price of a line. `tools`: prices of calls of tools, where the line has none."""
    each = tools | {
        name: round(usd * (1e6 if name in _PER_MILLION else USD))  # 1 USD per million is 10^6 picodollars
        for name in AMOUNTS
        if (usd := getattr(line, name)) is not None
    }
    for field, tokens in TOKEN_CLASSES.items():
        if tokens.default_price != 1 and tokens.part_of in each:
            each.setdefault(price_name(field), round(each[tokens.part_of] * tokens.default_price))
    return Price(each)


def _ran_in_us(tier: str) -> bool:
    """True for the service tier of a model that ran in the United States, as its call asked for."""
    return tier.rpartition("-")[2] == US


def _without_place(tier: str) -> str:
    return tier.removesuffix(US).removesuffix("-") if _ran_in_us(tier) else tier


def _in_the_us(price: Price) -> Price:
    """The price of a model that ran in the United States, as its call asked for: a tenth more for tokens of each class
    (docs.aws.amazon.com/claude-platform, data residency, which names the models as well; looked up on 2026-11-29)."""
    return Price({name: round(each * 11 / 10) if name in TOKEN_PRICES else each for name, each in price.each.items()})


def _normal(name: str) -> str:
    """The comparable form of a model or region: Azure writes gpt-35-turbo, OpenAI gpt-3.5-turbo."""
    return name.lower().replace(" ", "").replace("gpt-3.5", "gpt-35")
