"""The price of a call, from a dated table. Pure, except for reading the table once.

`prices.json` has Azure's public prices with their source (`local/price_table.py` generates it). The `prices` of the
configuration override it. An unknown price is None, never zero.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from shared.billing.cost import USD, Price
from shared.config.document import Backend, Deployment, PriceLine, since_seconds
from shared.token_classes import TOKEN_CLASSES, TOKEN_PRICES, price_name
from shared.types import BATCH, LONG_CONTEXT, Target, Usage

TABLE = Path(__file__).with_name("prices.json")

_STANDARD = frozenset(("", "standard", "default", "auto"))  # the standard tier, in the words of backends
_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4})$")


_Key = tuple[str, str, Deployment, str, str, bool, int]
_Line = tuple[bool, int, PriceLine]


class Prices:
    """All prices: the lines of the configuration before those of the table."""

    def __init__(self, configured: Sequence[PriceLine] = (), backends: Iterable[Backend] = ()) -> None:
        self._configured = configured
        self._backends = {backend.name: backend for backend in backends}
        self._known: dict[_Key, Price | None] = {}

    @functools.cached_property
    def _lines(self) -> dict[str, list[_Line]]:
        """By model: (the line is from the configuration, seconds since 1970 from which it holds, the line)."""
        by_model: dict[str, list[_Line]] = {}
        for own, lines in ((True, self._configured), (False, _listed())):
            for line in lines:
                by_model.setdefault(_normal(line.model), []).append((own, since_seconds(line.since), line))
        return by_model

    @functools.cached_property
    def changes(self) -> list[int]:
        """The times at which a price changes, in seconds since 1970, earliest first."""
        return sorted({since for lines in self._lines.values() for _, since, _ in lines})

    def next_change(self, at: float) -> float:
        """The first time after `at` at which a price changes, in seconds since 1970; infinite if there is none."""
        return next((change for change in self.changes if change > at), math.inf)

    def of(
        self,
        model: str,
        at: float,
        *,
        served: str = "",
        backend: str = "",
        region: str = "",
        tier: str = "",
        long: bool = False,
    ) -> Price | None:
        """The price of a model at a time on a backend; if the backend is no longer configured, on a global deployment.

        `served` and `tier` are as the backend reported them. The order: the configuration's price of the model; the
        price of the served model, by its full name, then without its date; the table's price of the model. A model
        without a price for long context has one price for all."""
        configured = self._backends.get(backend)
        deployment: Deployment = configured.deployment if configured else "global"
        region = configured.region if configured else region
        key = (model, served, deployment, region, tier, long, self._epoch(at))
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self._find(key, at)
        return self._known[key]

    def of_call(self, usage: Usage, target: Target, at: float) -> Price | None:
        """The price of a call, by the usage that the backend reported."""
        return self.of(
            target.model,
            at,
            served=usage.model,
            backend=target.backend.name,
            tier=usage.service_tier,
            long=usage.input_tokens > LONG_CONTEXT and usage.service_tier != BATCH,
        )

    def dearest(self, model: str, at: float) -> Price | None:
        """The highest price of a model on the backends that serve it, to reserve before one is chosen."""
        prices = [
            self.of(model, at, backend=name) for name, backend in self._backends.items() if model in backend.models
        ]
        known = [price for price in prices or [self.of(model, at)] if price is not None]
        return max(known, key=lambda price: (price.output or 0, price.input or 0), default=None)

    def unit_hour(self, deployment: Deployment, region: str, at: float) -> int | None:
        """The price of one provisioned throughput unit per hour, in picodollars; None if unknown."""
        line = self._best(self._lines.get("", ()), deployment, _normal(region), at)
        return round((line.unit_hour or 0.0) * USD) if line else None

    def _find(self, key: _Key, at: float) -> Price | None:
        model, served, deployment, region, tier, long, _ = key
        tier = "standard" if tier.lower() in _STANDARD else tier.lower()
        for lines in self._candidates(_normal(model), _normal(served)):
            for context in ("long", "short") if long else ("short",):
                fitting = (entry for entry in lines if entry[2].tier == tier and entry[2].context == context)
                if line := self._best(fitting, deployment, _normal(region), at):
                    return _resolved(line)
        return None

    def _candidates(self, model: str, served: str) -> Iterator[list[_Line]]:
        yield [entry for entry in self._lines.get(model, ()) if entry[0]]
        for name in (served, _DATED.sub("", served), model, _DATED.sub("", model)):
            if name:
                yield self._lines.get(name, [])

    @staticmethod
    def _best(lines: Iterable[_Line], deployment: Deployment, region: str, at: float) -> PriceLine | None:
        fitting = [
            (own, bool(line.regions), bool(line.deployment), since, number, line)
            for number, (own, since, line) in enumerate(lines)
            if since <= at
            and line.deployment in (None, deployment)
            and (not line.regions or region in map(_normal, line.regions))
        ]
        return max(fitting, key=lambda entry: entry[:5])[5] if fitting else None

    def _epoch(self, at: float) -> int:
        """The number of price changes so far: prices with the same number are the same."""
        return sum(change <= at for change in self.changes) if at < self.changes[-1] else len(self.changes)


class _Table(msgspec.Struct, frozen=True):
    source: str
    prices: list[PriceLine]


@functools.cache
def _table() -> _Table:
    return msgspec.json.decode(TABLE.read_bytes(), type=_Table)


def _listed() -> Iterator[PriceLine]:
    yield from _table().prices


def _resolved(line: PriceLine) -> Price:
    scale = dict.fromkeys((*TOKEN_PRICES, "character"), 1e6) | {"image": USD, "second": USD}  # 1 USD per million: 10^6
    each = {name: round(usd * by) for name, by in scale.items() if (usd := getattr(line, name)) is not None}
    for field, tokens in TOKEN_CLASSES.items():
        if tokens.default_price != 1 and tokens.part_of in each:
            each.setdefault(price_name(field), round(each[tokens.part_of] * tokens.default_price))
    return Price(each)


def _normal(name: str) -> str:
    """The comparable form of a model or region: Azure writes gpt-35-turbo, OpenAI gpt-3.5-turbo."""
    return name.lower().replace(" ", "").replace("gpt-3.5", "gpt-35")
