"""Holds calls to their limits: reserve before the call, settle when it has ended, on whatever way.

A call is held to several limits at once (`allowances.py`): its key's, the key's on that model, its team's, the
model's. Each is a row in the table `limits`, of which this process leases slices (`lessee.py`, `leases.py`). A call
passes when all let it pass; what it reserved with one is returned when another refuses.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.auth import client_address
from shared.billing import cost as pricing
from shared.billing.cost import USD, Price
from shared.billing.prices import Prices
from shared.config.document import Configuration, TokenHeaders
from shared.errors import GatewayError
from shared.limits import _headers, estimation, scopes
from shared.limits._exchange import Refused
from shared.limits._lease import LeasedLimit
from shared.limits._settlement import Alert, SettlementScheduler
from shared.limits._token_bucket import NOTHING, Amounts
from shared.limits.estimation import Experience, Size
from shared.limits.scopes import Scope
from shared.storage import Store
from shared.types import Call, Consumer, Target, Usage

logger = logging.getLogger("tollgate.limits")

TABLE = "limits"
_MOST_KEPT = 10_000  # pairs of key and model whose limits are at hand; also client addresses
_ONE_REQUEST = Amounts(1.0)
_NO_EXPERIENCE = Experience()


class _Held(msgspec.Struct, gc=False):
    """What calls of one key to one model are held to, as of these limits, and what such calls have taken."""

    consumer: Consumer
    model: str
    lessees: tuple[LeasedLimit, ...]
    by_tokens: bool  # tokens or money are limited, so an estimate is needed
    price: Price | None  # where money is
    experience: Experience | None = None


class Reservation:
    """What one call has reserved. One per call; settled once, however often it is asked for."""

    __slots__ = ("costs", "held", "settled", "size")

    def __init__(self, held: _Held, costs: Sequence[Amounts], size: Size | None) -> None:
        self.held = held
        self.costs = costs
        self.size = size  # None: its tokens do not matter
        self.settled = False


class Limiter:
    """One per process. `alert` is told of quotas that are nearly or entirely used."""

    def __init__(self, store: Store, configuration: Configuration, alert: Alert) -> None:
        self._landlord = SettlementScheduler(store.table(TABLE), store.now, alert)
        self.reach = self._landlord.reach
        self._now = store.now
        self._configuration = configuration
        self._settings = configuration.limits
        self._prices = Prices(configuration.prices, configuration.backends)
        self._aliases = {alias: name for name, about in configuration.models.items() for alias in about.aliases}
        self.hits: Counter[tuple[str, str]] = Counter()  # (kind of scope, dimension) -> refusals
        self._unpriced: set[str] = set()
        # By age of their last use. Forgetting one loses no settlement: the agenda keeps a lessee until it owes nothing.
        self._held: dict[tuple[str, str], _Held] = {}
        self._lessees: dict[str, LeasedLimit] = {}
        self._households: dict[str, LeasedLimit] = {}

    @property
    def limits_addresses(self) -> bool:
        limits = self._settings.addresses
        return bool(limits.requests_per_minute or limits.request_quota)

    async def admit(self, address: str) -> None:
        """Count a request of this client address, before anything is known of its caller: who is refused here costs no
        read of keys, and one of limits every few seconds. Raises `RateLimitExceeded` (429), `QuotaExceeded` (403)."""
        name, now = client_address.limited_network(address), self._now()
        lessee = self._households.pop(name, None)
        if lessee is None:
            lessee = LeasedLimit(scopes.of_address(name, self._settings.addresses), self._landlord)
            _make_room(self._households)
        self._households[name] = lessee
        if not lessee.spend(_ONE_REQUEST, now):
            await self._wait((lessee,), (_ONE_REQUEST,), 0, now)

    async def reserve(self, consumer: Consumer, call: Call) -> Reservation:
        """Admit a call. Nothing is awaited where the leases at hand cover it.

        Raises `RateLimitExceeded` (429), `QuotaExceeded`, `BudgetExceeded` (403), and `StoreUnavailable` (503) where a
        quota was never read and cannot be now."""
        model = self._aliases.get(call.model, call.model[:128])
        key = (consumer.id, model)
        held = self._held_to(key, consumer)
        if not held.lessees:
            return Reservation(held, (), None)
        now = self._now()
        size = estimation.size(call) if held.by_tokens else None
        costs = _costs(held, call, size)
        for i, (lessee, cost) in enumerate(zip(held.lessees, costs, strict=True)):
            if not lessee.spend(cost, now):
                await self._wait(held.lessees, costs, i, now)
                break
        return Reservation(held, costs, size)

    def settle(
        self,
        reservation: Reservation,
        usage: Usage,
        served_by: Target | None = None,
        beside: Iterable[tuple[Target, Usage]] = (),
    ) -> None:
        """Book what a call took, at the price of what served it. `beside`: what tries were charged that did not answer
        it, with their targets. Calls after the first, and after `release`, do nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        held = reservation.held
        if not held.lessees:
            return
        actual = self._taken(held, usage, served_by, 1.0)
        for other, charged in beside:
            actual = actual.plus(self._taken(held, charged, other))
        if reservation.size is not None and usage.input_tokens and not usage.estimated:
            _learn(held, reservation.size, usage)
        for lessee, cost in zip(held.lessees, reservation.costs, strict=True):
            lessee.settle(cost, actual)

    def release(self, reservation: Reservation) -> None:
        """Return all that a call reserved: nothing was served."""
        if reservation.settled:
            return
        reservation.settled = True
        for lessee, cost in zip(reservation.held.lessees, reservation.costs, strict=True):
            lessee.settle(cost, NOTHING)

    def headers(self, reservation: Reservation, consumed: Callable[[], int] | None = None) -> dict[str, str]:
        """The caller's limits in OpenAI's headers, those of the narrowest scope if there are several; and the headers
        that the configuration names, for callers who are used to those of API Management.

        `consumed` returns the tokens that the call has used so far; None: it has not been served."""
        headers, names = _headers.headers(reservation.held.lessees, self._now()), self._settings.headers
        if consumed is None or names == TokenHeaders():
            return headers
        if names.remaining_tokens and (remaining := headers.get("x-ratelimit-remaining-tokens")) is not None:
            headers[names.remaining_tokens.lower()] = remaining
        if names.consumed_tokens:
            headers[names.consumed_tokens.lower()] = str(consumed())
        return headers

    def state(self) -> dict[str, Any]:
        """How this instance is doing. `safe`: it decides alone, because the table does not answer."""
        hits = [{"scope": kind, "limit": limit, "calls": calls} for (kind, limit), calls in sorted(self.hits.items())]
        lost = self.reach.lost_since
        since = datetime.fromtimestamp(lost, UTC).isoformat(timespec="seconds") if lost is not None else None
        return {"mode": "normal" if lost is None else "safe", "safe_since": since, "hits": hits}

    async def stop(self) -> None:
        """Settle everything and give back what is on lease."""
        await self._landlord.settle_all()

    # --- admission ----------------------------------------------------------------------------------------------------

    async def _wait(self, lessees: Sequence[LeasedLimit], costs: Sequence[Amounts], spent: int, now: float) -> None:
        """Admit a call with those lessees, from the one at `spent` on, that do not have it on lease; all at once."""
        admitted = list(range(spent))
        asking: list[int] = [spent]
        for i in range(spent + 1, len(lessees)):
            (admitted if lessees[i].spend(costs[i], now) else asking).append(i)
        answers: list[BaseException | None] = [None] * len(asking)
        try:
            if len(asking) == 1:
                try:
                    await self._admit(lessees[asking[0]], costs[asking[0]], now)
                except (Refused, GatewayError) as refused:
                    answers[0] = refused
            else:
                waiting = (self._admit(lessees[i], costs[i], now) for i in asking)
                answers = await asyncio.gather(*waiting, return_exceptions=True)
        except BaseException:
            for i in admitted:
                lessees[i].settle(costs[i], NOTHING)
            raise
        errors = [answer for answer in answers if answer is not None]
        if not errors:
            return
        for i in (*admitted, *(i for i, answer in zip(asking, answers, strict=True) if answer is None)):
            lessees[i].settle(costs[i], NOTHING)
        if refusals := [error for error in errors if isinstance(error, Refused)]:
            worst = max(refusals, key=lambda refused: (refused.refusal.kind == "quota", refused.refusal.wait))
            raise _headers.error(worst, lessees, now, self._settings.contact)
        raise errors[0]

    async def _admit(self, lessee: LeasedLimit, cost: Amounts, now: float) -> None:
        try:
            await lessee.admit(cost, now)
        except Refused as refused:
            self._report(refused, lessee.scope.limits.soft or False)
            if not lessee.scope.limits.soft:
                raise
            lessee.overdraw(cost)

    def _report(self, refused: Refused, soft: bool) -> None:
        scope, refusal = refused.scope, refused.refusal
        self.hits[scope.kind, refusal.dimension] += 1
        line = {
            "event": "soft_limit_exceeded" if soft else "limit_exceeded",
            "scope": scope.key,
            "limit": refusal.dimension,
            "kind": refusal.kind,
            "wait": round(refusal.wait, 3),
        }
        logger.info(msgspec.json.encode(line).decode())

    def _held_to(self, key: tuple[str, str], consumer: Consumer) -> _Held:
        held = self._held.get(key)
        if held is not None:
            known = held.consumer
            if known is consumer or (
                known.limits == consumer.limits
                and known.team == consumer.team
                and known.model_limits == consumer.model_limits
            ):
                self._held[key] = self._held.pop(key)
                return held
        model = key[1]
        lessees = tuple(self._lessee(scope) for scope in scopes.held_to(consumer, model, self._configuration))
        by_tokens = any(lessee.scope.limited[1] or lessee.scope.limited[2] for lessee in lessees)
        by_usd = any(lessee.scope.limited[2] for lessee in lessees)
        price = self._prices.dearest(model, self._now()) if by_usd else None
        if by_usd and price is None:
            self._warn_of_no_price(model)
        experience = held.experience if held is not None else None
        self._held.pop(key, None)
        _make_room(self._held)
        held = self._held[key] = _Held(consumer, model, lessees, by_tokens, price, experience)
        return held

    def _taken(self, held: _Held, usage: Usage, target: Target | None, requests: float = 0.0) -> Amounts:
        """What a usage counts, at the price of what it was used on."""
        usd = 0.0
        if any(lessee.scope.limited[2] for lessee in held.lessees):
            price = self._prices.of_call(usage, target, self._now()) if target else held.price
            cost = pricing.cost(price, usage)
            if cost is None:
                self._warn_of_no_price(target.model if target else held.model)
            usd = (cost or 0) / USD
        # A batch may be as large as days of calls, at no pace of its caller's: it counts towards budgets alone.
        tokens = 0 if usage.service_tier == "batch" else usage.input_tokens + usage.output_tokens
        return Amounts(requests, float(tokens), usd)

    def _warn_of_no_price(self, model: str) -> None:
        if model not in self._unpriced and len(self._unpriced) < _MOST_KEPT:  # callers may name any model
            self._unpriced.add(model)
            logger.warning("the model %s has no known price: its calls do not count towards budgets", model[:128])

    def _lessee(self, scope: Scope) -> LeasedLimit:
        lessee = self._lessees.pop(scope.key, None)
        if lessee is None:
            lessee = LeasedLimit(scope, self._landlord)
            _make_room(self._lessees)
        elif lessee.scope != scope:
            lessee.change(scope)
        self._lessees[scope.key] = lessee
        return lessee


def _make_room[K, V](kept: dict[K, V]) -> None:
    """Forget what has been unused for longest, many at once: a dict is slow at finding its first key time and again."""
    if len(kept) >= _MOST_KEPT:
        for key in list(itertools.islice(kept, max(1, _MOST_KEPT // 20))):
            del kept[key]


def _costs(held: _Held, call: Call, size: Size | None) -> list[Amounts]:
    """What each scope is charged, in the order of the lessees."""
    expected = most = None
    costs, price = [], held.price
    for lessee in held.lessees:
        _, by_tokens, by_usd, by_slots = lessee.scope.limited
        estimate = estimation.NOTHING
        if size is not None and (by_tokens or by_usd):
            if lessee.scope.limits.estimate == "max" or lessee.nearly_used_up:
                estimate = most = most or estimation.most(call, size, _experienced(held, lessee))
            else:
                estimate = expected = expected or estimation.expected(call, size, _experienced(held, lessee))
        costs.append(
            Amounts(
                1.0,
                estimate.input + estimate.output if by_tokens else 0.0,
                _expected_usd(price, estimate.input, estimate.output) if by_usd and price else 0.0,
                1.0 if by_slots else 0.0,
            )
        )
    return costs


def _expected_usd(price: Price, input_tokens: float, output_tokens: float) -> float:
    return (input_tokens * (price.input or 0) + output_tokens * (price.output or 0)) / USD


def _experienced(held: _Held, lessee: LeasedLimit) -> Experience:
    """What is known of such calls; where nothing is, what another instance knows."""
    return held.experience or lessee.experience or _NO_EXPERIENCE


def _learn(held: _Held, size: Size, usage: Usage) -> None:
    learned = held.experience = _experienced(held, held.lessees[0]).learn(size, usage)
    for lessee in held.lessees:
        lessee.experience = learned
