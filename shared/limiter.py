"""Holds calls to their limits: reserve before the call, settle when it has ended, on whatever way.

A call is held to several limits at once (`allowances.py`): its key's, the key's on that model, its team's, the
model's. Each is a row in the table `limits`, of which this process leases slices (`lessee.py`, `leases.py`). A call
passes when all let it pass; what it reserved with one is returned when another refuses.
"""

import asyncio
import logging
import math
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from shared import addresses, allowances, pricing, tokens
from shared.allowances import Scope
from shared.config import Configuration, TokenHeaders
from shared.errors import BudgetExceeded, GatewayError, QuotaExceeded, RateLimitExceeded
from shared.leases import DIMENSIONS, NOTHING, Amounts
from shared.lessee import Lessee, Reach, Refused
from shared.pricing import Price
from shared.stores import Store
from shared.tokens import Experience
from shared.types import Call, Consumer, Usage

logger = logging.getLogger("tollgate.limits")

TABLE = "limits"
_MOST_KEPT = 10_000  # pairs of key and model whose limits are at hand; also client addresses
_ONE_REQUEST = Amounts(1.0)

Alert = Callable[[Scope, str, int, float], None]


class _Held(NamedTuple):
    """What calls of one key to one model are held to, as of these limits."""

    consumer: Consumer
    lessees: tuple[Lessee, ...]
    by_tokens: bool  # tokens or money are limited, so an estimate is needed
    by_usd: bool
    price: Price | None


class Reservation:
    """What one call has reserved. One per call; settled once, however often it is asked for."""

    __slots__ = ("body_bytes", "costs", "estimate", "held", "key", "settled")

    def __init__(
        self, key: tuple[str, str], held: _Held, costs: Sequence[Amounts], estimate: int, body_bytes: int
    ) -> None:
        self.key = key
        self.held = held
        self.costs = costs
        self.estimate = estimate  # tokens
        self.body_bytes = body_bytes
        self.settled = False


class Limiter:
    """One per process. `alert` is told of quotas that are nearly or entirely used."""

    def __init__(self, store: Store, configuration: Configuration, alert: Alert) -> None:
        self._table = store.table(TABLE)
        self._now = store.now
        self._configuration = configuration
        self._settings = configuration.limits
        self._aliases = {alias: name for name, about in configuration.models.items() for alias in about.aliases}
        self._alert = alert
        self.reach = Reach()
        self.hits: Counter[tuple[str, str]] = Counter()  # (kind of scope, dimension) -> refusals
        self._unpriced: set[str] = set()
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._experience: OrderedDict[tuple[str, str], Experience] = OrderedDict()
        self._households: OrderedDict[str, Lessee] = OrderedDict()
        # A lessee that owes something is kept alive by its own timer, so forgetting one loses no settlement.
        self._lessees: weakref.WeakValueDictionary[str, Lessee] = weakref.WeakValueDictionary()

    @property
    def limits_addresses(self) -> bool:
        limits = self._settings.addresses
        return bool(limits.requests_per_minute or limits.request_quota)

    async def admit(self, address: str) -> None:
        """Count a request of this client address, before anything is known of its caller: who is refused here costs
        neither a read of keys nor, until the time that it is told, of limits. Raises `RateLimitExceeded` (429) and
        `QuotaExceeded` (403)."""
        name, now = addresses.household(address), self._now()
        lessee = self._households.get(name)
        if lessee is None:
            lessee = self._households[name] = self._lessee(allowances.of_address(name, self._settings.addresses))
            if len(self._households) > _MOST_KEPT:
                self._households.popitem(last=False)
        else:
            self._households.move_to_end(name)
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
            return Reservation(key, held, (), 0, 0)
        now = self._now()
        costs, estimate = self._costs(key, held, call)
        for i, (lessee, cost) in enumerate(zip(held.lessees, costs, strict=True)):
            if not lessee.spend(cost, now):
                await self._wait(held.lessees, costs, i, now)
                break
        return Reservation(key, held, costs, estimate, len(call.body))

    def settle(self, reservation: Reservation, usage: Usage, model: str = "") -> None:
        """Book what a call took; `model` is the one that served it, where it was another. Calls after the first, and
        after `release`, do nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        held = reservation.held
        if not held.lessees:
            return
        price = held.price
        if held.by_usd and model and model != reservation.key[1]:
            price = pricing.price(model)
        usd = pricing.cost(price, usage) if price is not None else 0.0
        actual = Amounts(1.0, float(usage.input_tokens + usage.output_tokens), usd)
        if held.by_tokens and usage.input_tokens and not usage.estimated:
            self._learn(reservation, usage)
        for lessee, cost in zip(held.lessees, reservation.costs, strict=True):
            lessee.settle(cost, actual)

    def release(self, reservation: Reservation) -> None:
        """Return all that a call reserved: nothing was served."""
        if reservation.settled:
            return
        reservation.settled = True
        for lessee, cost in zip(reservation.held.lessees, reservation.costs, strict=True):
            lessee.settle(cost, NOTHING)

    def headers(self, reservation: Reservation) -> dict[str, str]:
        """The caller's limits, in OpenAI's form; those of the narrowest scope where there are several."""
        return self._headers(reservation.held.lessees, self._now())

    def token_headers(self, reservation: Reservation, consumed: int) -> dict[str, str]:
        """The headers that the configuration names, for callers who are used to those of API Management."""
        names, told = self._settings.headers, {}
        if names.consumed_tokens:
            told[names.consumed_tokens.lower()] = str(consumed)
        if names.remaining_tokens:
            remaining = self.headers(reservation).get("x-ratelimit-remaining-tokens")
            if remaining is not None:
                told[names.remaining_tokens.lower()] = remaining
        return told

    @property
    def names_token_headers(self) -> bool:
        return self._settings.headers != TokenHeaders()

    def state(self) -> dict[str, Any]:
        """How this instance is doing. `safe`: it decides alone, because the table does not answer."""
        hits = [{"scope": kind, "limit": limit, "calls": calls} for (kind, limit), calls in sorted(self.hits.items())]
        lost = self.reach.lost_since
        since = datetime.fromtimestamp(lost, UTC).isoformat(timespec="seconds") if lost is not None else None
        return {"mode": "normal" if lost is None else "safe", "safe_since": since, "hits": hits}

    async def stop(self) -> None:
        """Settle everything and give back what is on lease."""
        await asyncio.gather(*(lessee.flush() for lessee in list(self._lessees.values())))

    # --- admission ----------------------------------------------------------------------------------------------------

    def _costs(self, key: tuple[str, str], held: _Held, call: Call) -> tuple[list[Amounts], int]:
        """What each scope is charged, in the order of the lessees, and the tokens reserved."""
        expected = most = None
        costs, largest = [], 0.0
        for lessee in held.lessees:
            _, by_tokens, by_usd, by_slots = lessee.limited
            input_tokens = output_tokens = 0.0
            if by_tokens or by_usd:
                if lessee.scope.limits.estimate == "max" or lessee.nearly_used_up:
                    estimate = most = most or tokens.most(call, self._experienced(key, lessee))
                else:
                    estimate = expected = expected or tokens.expected(call, self._experienced(key, lessee))
                input_tokens, output_tokens = estimate.input, estimate.output
                largest = max(largest, input_tokens + output_tokens)
            price = held.price
            costs.append(
                Amounts(
                    1.0,
                    input_tokens + output_tokens if by_tokens else 0.0,
                    (input_tokens * price.input + output_tokens * price.output) / 1e6 if by_usd and price else 0.0,
                    1.0 if by_slots else 0.0,
                )
            )
        return costs, round(largest)

    async def _wait(self, lessees: Sequence[Lessee], costs: Sequence[Amounts], spent: int, now: float) -> None:
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
            raise self._error(worst, lessees, now)
        raise errors[0]

    async def _admit(self, lessee: Lessee, cost: Amounts, now: float) -> None:
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
                self._held.move_to_end(key)
                return held
        scopes = allowances.held_to(consumer, key[1], self._configuration)
        lessees = tuple(self._lessee(scope) for scope in scopes)
        by_tokens = any(lessee.limited[1] or lessee.limited[2] for lessee in lessees)
        by_usd = any(lessee.limited[2] for lessee in lessees)
        price = pricing.price(key[1]) if by_usd else None
        if by_usd and price is None and key[1] not in self._unpriced:
            self._unpriced.add(key[1])
            logger.warning("the model %s has no known price: its calls do not count towards budgets", key[1][:128])
        held = self._held[key] = _Held(consumer, lessees, by_tokens, by_usd, price)
        self._held.move_to_end(key)
        while len(self._held) > _MOST_KEPT:
            self._held.popitem(last=False)
        return held

    def _lessee(self, scope: Scope) -> Lessee:
        lessee = self._lessees.get(scope.key)
        if lessee is None:
            lessee = self._lessees[scope.key] = Lessee(self._table, scope, self.reach, self._now, self._alert)
        elif lessee.scope != scope:
            lessee.change(scope)
        return lessee

    def _experienced(self, key: tuple[str, str], lessee: Lessee) -> Experience:
        known = self._experience.get(key)
        if known is None:
            known = Experience.of_others(lessee.expected_output) if lessee.expected_output else Experience()
        return known

    def _learn(self, reservation: Reservation, usage: Usage) -> None:
        key, lessees = reservation.key, reservation.held.lessees
        learned = self._experienced(key, lessees[0]).learn(reservation.body_bytes, usage)
        self._experience[key] = learned
        self._experience.move_to_end(key)
        if len(self._experience) > _MOST_KEPT:
            self._experience.popitem(last=False)
        for lessee in lessees:
            lessee.expected_output = learned.expected_output

    # --- what callers are told ----------------------------------------------------------------------------------------

    def _headers(self, lessees: Sequence[Lessee], now: float) -> dict[str, str]:
        told = {}
        for dimension in ("requests", "tokens"):
            narrowest: tuple[float, float, float] | None = None
            for lessee in lessees:
                shown = lessee.available(DIMENSIONS.index(dimension), now)
                if shown is not None and (narrowest is None or shown[1] / shown[0] < narrowest[1] / narrowest[0]):
                    narrowest = shown
            if narrowest is not None:
                limit, remaining, reset = narrowest
                told[f"x-ratelimit-limit-{dimension}"] = str(round(limit))
                told[f"x-ratelimit-remaining-{dimension}"] = str(int(remaining + 1e-6))
                told[f"x-ratelimit-reset-{dimension}"] = duration(reset)
        return told

    def _error(self, refused: Refused, lessees: Sequence[Lessee], now: float) -> GatewayError:
        error = self._refusal(refused, now)
        error.limits = self._headers(lessees, now)
        return error

    def _refusal(self, refused: Refused, now: float) -> GatewayError:
        scope, refusal = refused.scope, refused.refusal
        limits, contact = scope.limits, self._settings.contact
        if refusal.kind == "rate":
            allowed = {
                "requests": f"{limits.requests_per_minute} requests per minute",
                "tokens": f"{limits.tokens_per_minute} tokens per minute",
                "slots": f"{limits.max_concurrent} calls at a time",
            }.get(refusal.dimension, "what is left of its quota, most of which other calls hold just now")
            wait = math.ceil(refusal.wait * 1000) / 1000
            return RateLimitExceeded(
                f"{scope.about} is limited to {allowed}. Retry after {wait:.3f} seconds; for more, ask {contact}.",
                wait,
            )
        zone = ZoneInfo(limits.time_zone or "UTC")
        renews = datetime.fromtimestamp(round(now + refusal.wait), zone).isoformat(timespec="seconds")
        kind = BudgetExceeded if refusal.dimension == "usd" else QuotaExceeded
        used = {
            "requests": f"{limits.request_quota} requests per {limits.request_quota_period or 'day'}",
            "tokens": f"{limits.token_quota} tokens per {limits.token_quota_period or 'month'}",
            "usd": f"budget of {limits.budget_usd} USD per {limits.budget_period or 'month'}",
        }[refusal.dimension]
        left = f"{scope.about} has no room left for this call in its {used}."
        return kind(f"{left} It renews at {renews}; for more, ask {contact}.", renews)


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: 120ms, 7.66s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{max(0, math.ceil(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
