"""What things cost: a dated table of prices, and which of them holds for a call. Pure, but for reading the table once.

`prices.json` holds Azure's public prices with their source (`local/price_table.py` writes it); the configuration's
`prices` go before it. What has no price has none, and says so: it never costs zero.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from shared.billing.cost import USD, Price
from shared.config.document import Backend, Deployment, PriceLine, since_seconds
from shared.token_classes import TOKEN_CLASSES, TOKEN_PRICES, price_name
from shared.types import LONG_CONTEXT, Target, Usage

TABLE = Path(__file__).with_name("prices.json")

_STANDARD = frozenset(("", "standard", "default", "auto"))  # what backends say of their service tier
_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4})$")


_Key = tuple[str, str, Deployment, str, str, bool, int]
_Line = tuple[bool, int, PriceLine]


class Prices:
    """What everything costs, by the configuration's lines before those of the table."""

    def __init__(self, configured: Sequence[PriceLine] = (), backends: Iterable[Backend] = ()) -> None:
        self._configured = configured
        self._backends = {backend.name: backend for backend in backends}
        self._known: dict[_Key, Price | None] = {}

    @functools.cached_property
    def _lines(self) -> dict[str, list[_Line]]:
        """By model: whether a line is the configuration's, since when it holds, and the line."""
        found: dict[str, list[_Line]] = {}
        for own, lines in ((True, self._configured), (False, _listed())):
            for line in lines:
                found.setdefault(_normal(line.model), []).append((own, since_seconds(line.since), line))
        return found

    @functools.cached_property
    def changes(self) -> list[int]:
        """When a price begins to hold, in seconds since 1970, the earliest first."""
        return sorted({since for lines in self._lines.values() for _, since, _ in lines})

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
        """The price of a model at a time, on a backend; where that is no longer configured, on global deployments.

        `served` and `tier` are what the backend said. The configuration's price of the model goes first; then that of
        what was served, by its whole name before that without its date; then the table's of the model. A model with no
        price for long context has one price for any."""
        where = self._backends.get(backend)
        deployment: Deployment = where.deployment if where else "global"
        key = (model, served, deployment, where.region if where else region, tier, long, self._epoch(at))
        if key not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = self._find(key, at)
        return self._known[key]

    def of_call(self, usage: Usage, target: Target, at: float) -> Price | None:
        """The price of what a backend says that a call took."""
        return self.of(
            target.model,
            at,
            served=usage.model,
            backend=target.backend.name,
            tier=usage.service_tier,
            long=usage.input_tokens > LONG_CONTEXT,
        )

    def dearest(self, model: str, at: float) -> Price | None:
        """The highest price of a model on the backends that serve it: what to reserve before it is known which."""
        found = [
            self.of(model, at, backend=name) for name, backend in self._backends.items() if model in backend.models
        ]
        known = [price for price in found or [self.of(model, at)] if price is not None]
        return max(known, key=lambda price: (price.output or 0, price.input or 0), default=None)

    def unit_hour(self, deployment: Deployment, region: str, at: float) -> int | None:
        """What one provisioned throughput unit costs an hour there, in picodollars."""
        line = self._best(self._lines.get("", ()), deployment, _normal(region), at)
        return round((line.unit_hour or 0.0) * USD) if line else None

    def _find(self, key: _Key, at: float) -> Price | None:
        model, served, deployment, region, tier, long, _ = key
        wanted = "standard" if tier.lower() in _STANDARD else tier.lower()
        for lines in self._candidates(_normal(model), _normal(served)):
            for context in ("long", "short") if long else ("short",):
                fitting = (entry for entry in lines if entry[2].tier == wanted and entry[2].context == context)
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
        """Between two changes all prices are the same."""
        return sum(change <= at for change in self.changes) if at < self.changes[-1] else len(self.changes)


def source() -> str:
    """Where the table's figures come from."""
    return _table().source


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
    """Names of models and regions, however they are written: Azure says gpt-35-turbo, OpenAI gpt-3.5-turbo."""
    return name.lower().replace(" ", "").replace("gpt-3.5", "gpt-35")
