"""Holds calls to their limits: reserves before a call, and settles when it has ended.

Several limits apply to a call at once (`scopes.py`): of its key, of the key on that model, of its team, of its product,
of the user behind the key, and of the model. Each is a row of the table `limits`, of which this process leases slices
(`_lease.py`). A call passes when all of them admit it; if one denies it, the others get back what it has reserved.
"""

import asyncio
import copy
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from shared.auth import client_address
from shared.azure_openai.batch_lines import BatchSize
from shared.billing import cost as pricing
from shared.billing.cost import USD, Price
from shared.billing.prices import Prices
from shared.concurrency import LruDict
from shared.config.document import Configuration
from shared.errors import ModelWithoutPrice
from shared.limits import _headers, estimation, scopes
from shared.limits._amounts import NOTHING, Amounts
from shared.limits._call_limits import CallLimits
from shared.limits._exchange import Alert, Denied
from shared.limits._lease import LeasedLimit
from shared.limits._rows import LimitsTable
from shared.limits._settlement import SettlementScheduler
from shared.limits._users import UsersOfKeys
from shared.limits.holds import Hold, corrected
from shared.limits.scopes import Scope
from shared.storage import Store, names
from shared.types import BATCH, Call, Consumer, Operation, Target, Usage
from shared.usage.token_averages import Size

logger = logging.getLogger("tollgate.limits")

_MOST_KEPT = 10_000  # pairs of key and model whose limits are at hand; also client addresses
_ONE_REQUEST = Amounts(1.0)
_NO_USAGE = Usage()
_NO_HOLD = Hold()


def _alert_nobody(scope: Scope, dimension: str, percentage: int, until: float) -> None:
    """For the limits of users: a key may have thousands of them."""


class Reservation:
    """The amounts that one call has reserved at each of its limits; once it is settled, those booked. `size` None: its
    tokens do not matter. `serving`: the limits of the other models that may serve it. `held`: what its limits count for
    work that goes on after the call; None if it has none. `booked`: what was booked last; `late`: charges beside that,
    of attempts that ended later."""

    __slots__ = ("booked", "call_limits", "costs", "held", "late", "limits", "serving", "settled", "size")

    def __init__(self, call_limits: CallLimits, costs: Sequence[Amounts], size: Size | None) -> None:
        self.call_limits = call_limits
        self.limits: Sequence[LeasedLimit] = call_limits.limits
        self.costs = costs
        self.size = size
        self.serving: tuple[CallLimits, ...] = ()
        self.held: Mapping[str, Hold] | None = None
        self.settled = False
        self.booked: tuple[Usage, Target | None, Iterable[tuple[Target, Usage]], float] | None = None
        self.late: tuple[tuple[Target, Usage], ...] = ()


class Arrival(msgspec.Struct, frozen=True):
    """The request and the slot that a call has reserved at each limit, before its model and its size are known."""

    limits: tuple[LeasedLimit, ...]
    costs: tuple[Amounts, ...]

    def at(self, limit: LeasedLimit) -> Amounts:
        """The amounts reserved at a limit."""
        return next((cost for own, cost in zip(self.limits, self.costs, strict=True) if own is limit), NOTHING)

    def without(self, limits: Sequence[LeasedLimit]) -> "Arrival":
        """The part that is reserved at other limits than these."""
        left = [pair for pair in zip(self.limits, self.costs, strict=True) if pair[0] not in limits]
        return Arrival(tuple(limit for limit, _ in left), tuple(cost for _, cost in left))


class Limiter:
    """One per process. `alert` is called for quotas that are nearly or entirely used."""

    def __init__(self, store: Store, configuration: Configuration, alert: Alert) -> None:
        self._table = LimitsTable(store.table(names.LIMITS), store.now)
        self._scheduler = SettlementScheduler()
        self._alert = alert
        self._configuration = configuration
        self._settings = configuration.limits
        self._prices = Prices(configuration.prices, configuration.backends)
        self._generations = itertools.count(1)
        self._generation = 0
        self._limits_users = scopes.is_limited(configuration.limits.users)
        self._users = UsersOfKeys()
        self.hits: Counter[tuple[str, str]] = Counter()  # (kind of scope, dimension) -> denials
        self._unpriced: set[str] = set()
        # Dropping a limit loses no settlement: the scheduler keeps it until it owes nothing.
        self._call_limits: LruDict[tuple[str, str, str, str, str], CallLimits] = LruDict(_MOST_KEPT)
        self._limits: LruDict[str, LeasedLimit] = LruDict(_MOST_KEPT)
        self._address_limits: LruDict[str, LeasedLimit] = LruDict(_MOST_KEPT)

    def with_configuration(self, configuration: Configuration) -> Self:
        """This limiter for another configuration: leases, settlements and counts are shared with it. Calls that it has
        admitted end under its own."""
        other = copy.copy(self)
        other._generation = next(self._generations)
        other._configuration = configuration
        other._settings = configuration.limits
        other._limits_users = scopes.is_limited(configuration.limits.users)
        other._prices = Prices(configuration.prices, configuration.backends)
        if configuration.limits.addresses != self._settings.addresses:
            other._address_limits = LruDict(_MOST_KEPT)
        return other

    @property
    def safe_since(self) -> float | None:
        """The beginning of safe mode, in seconds since 1970; None: the table answers."""
        return self._table.reach.lost_since

    @property
    def limits_addresses(self) -> bool:
        limits = self._settings.addresses
        return bool(limits.requests_per_minute or limits.request_quota)

    async def admit(self, address: str) -> None:
        """Count a request of this client address, before its key is read. A denied address costs no read of keys, and a
        read of its limits every few seconds at most. Raises `RateLimitExceeded` (429), `QuotaExceeded` (403)."""
        network, now = client_address.limited_network(address), self._table.now()
        limit = self._address_limits.get(network)
        if limit is None:
            limit = self._leased(scopes.of_address(network, self._settings.addresses))
        self._address_limits[network] = limit
        if not limit.spend(_ONE_REQUEST, now):
            await self._wait((limit,), (_ONE_REQUEST,), 0, now)

    async def arrive(self, consumer: Consumer) -> Arrival:
        """Admit the request and the slot of a call whose body has not arrived, at the limits of its key and its team.
        Raises as `reserve`."""
        due = [one for one in scopes.of_call(consumer, "", self._configuration) if one.limited[0] or one.limited[3]]
        limits = tuple(map(self._limit, due))
        costs = tuple(Amounts(1.0, slots=1.0 if scope.limited[3] else 0.0) for scope in due)
        await self._admit_all(limits, costs, self._table.now())
        return Arrival(limits, costs)

    def depart(self, arrival: Arrival) -> None:
        """Return what an arrival reserved: its call came to nothing."""
        for limit, cost in zip(arrival.limits, arrival.costs, strict=True):
            limit.settle(cost, NOTHING)

    async def reserve(self, consumer: Consumer, call: Call, arrival: Arrival | None = None) -> Reservation:
        """Admit a call. Nothing is awaited if the leases at hand cover it. `arrival`: reserved already; the reservation
        takes it over.

        Raises `RateLimitExceeded` (429), `QuotaExceeded`, `BudgetExceeded`, `ModelWithoutPrice` (403), and
        `StoreUnavailable` (503) for a quota that was never read and cannot be read now."""
        now = self._table.now()
        model = self._configuration.served(call.model[:128], now)
        call_limits = self._limits_of(consumer, model, call.operation, now, call.user)
        limits = call_limits.limits
        if not limits:
            return Reservation(call_limits, (), None)
        size = None
        if call_limits.estimated and estimation.generates(call):
            size = self._sized(call, call_limits)
        costs = call_limits.costs(limits, call, size, now)
        if arrival is None:
            await self._admit_all(limits, costs, now)
        else:
            due = [(limit, cost.minus(arrival.at(limit))) for limit, cost in zip(limits, costs, strict=True)]
            due = [(limit, cost) for limit, cost in due if any(cost.each())]
            await self._admit_all([limit for limit, _ in due], [cost for _, cost in due], now)
            self.depart(arrival.without(limits))  # a limit may have been dropped from memory meanwhile
        return Reservation(call_limits, costs, size)

    async def reserve_model(self, reservation: Reservation, consumer: Consumer, call: Call, model: str) -> None:
        """Admit an admitted call at the limits of another model, which is about to serve it. Raises as `reserve`."""
        now = self._table.now()
        call_limits = self._limits_of(consumer, model, call.operation, now, call.user)
        reserved = {limit.scope.key for limit in reservation.limits}
        limits = [limit for limit in call_limits.limits if limit.scope.key not in reserved]
        size = self._sized(call, call_limits) if call_limits.estimated else None
        costs = call_limits.costs(limits, call, size, now)
        await self._admit_all(limits, costs, now)
        reservation.limits, reservation.costs = [*reservation.limits, *limits], [*reservation.costs, *costs]
        reservation.size = reservation.size or size
        reservation.serving += (call_limits,)

    async def reserve_batch(self, reservation: Reservation, call: Call, batch: BatchSize) -> None:
        """Admit a batch, which was admitted as a call, at its size. Raises as `reserve`."""
        limits, now = reservation.call_limits, self._table.now()
        if not limits.priced:
            return
        served = (pair for backend in self._configuration.backends for pair in backend.models.items())
        model = next((name for name, deployment in served if batch.model in (name, deployment)), "")
        price = self._prices.dearest(model, now, BATCH) if model else limits.price
        size = Size(batch.bytes, answers=batch.answers)
        costs = msgspec.structs.replace(limits, price=price).costs(reservation.limits, call, size, now)
        # Nothing comes back: what a call without a size reserves is less than any batch takes.
        more = [Amounts(usd=max(0.0, cost.usd - one.usd)) for cost, one in zip(costs, reservation.costs, strict=True)]
        await self._admit_all(reservation.limits, more, now)
        reservation.costs = [one.plus(extra) for one, extra in zip(reservation.costs, more, strict=True)]

    def settle(
        self,
        reservation: Reservation,
        usage: Usage = _NO_USAGE,
        served_by: Target | None = None,
        beside: Iterable[tuple[Target, Usage]] = (),
        requests: float = 1.0,
    ) -> None:
        """Book what a call took, at the price and the limits of the model that served it. `beside`: the charges of
        attempts that did not answer it, with their targets. `requests`: 0 if the call was not served. Calls after the
        first, and after `release`, do nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        serving = self._book(reservation, usage, served_by, beside, requests)
        if reservation.size is not None:
            self._learn(serving, reservation.size, usage)

    def correct(
        self,
        reservation: Reservation,
        usage: Usage,
        served_by: Target | None,
        beside: Iterable[tuple[Target, Usage]],
        requests: float,
    ) -> None:
        """Book what a settled call took in place of what `settle` has booked."""
        self._book(reservation, usage, served_by, beside, requests)

    def charge(self, reservation: Reservation, target: Target, usage: Usage) -> None:
        """Book the charge of an attempt that ended late, beside what the call took."""
        reservation.late += ((target, usage),)
        if reservation.booked is not None:
            self._book(reservation, *reservation.booked)

    def hold(self, reservation: Reservation, call: Call, model: str) -> Mapping[str, Hold]:
        """Keep what a call has reserved when it ends, since its work goes on: its settlement books that. Return it by
        the keys of the scopes. `model`: the configured name of the one that works, which a run's answer is the first
        to tell."""
        now, limits = self._table.now(), reservation.limits
        serving = next((one for one in reservation.serving if one.model == model), reservation.call_limits)
        costs, size = reservation.costs, reservation.size
        if call.makes == "run" and size is not None and serving.priced and model not in ("", serving.model):
            priced = msgspec.structs.replace(serving, price=self._prices.dearest(model, now))
            costs = priced.costs(limits, call, size, now)
        keys = {limit.scope.key for limit in serving.limits}
        reserved = [(limit.scope.key, cost) for limit, cost in zip(limits, costs, strict=True)]
        reservation.held = {key: Hold(cost.tokens, cost.usd) for key, cost in reserved if key in keys}
        return reservation.held

    def settle_held(
        self,
        consumer: Consumer,
        model: str,
        held: Mapping[str, Hold],
        started: float,
        usage: Usage,
        target: Target | None,
    ) -> None:
        """Book the usage of work that a call of this consumer to this model `started`, in place of what was held."""
        now = self._table.now()
        for scope in scopes.with_keys(held, consumer, model, self._configuration):
            actual = self._amounts(usage, target, None, 0.0, priced=scope.limited[2])
            hold = held[scope.key]
            self._limit(scope).settle(hold.amounts, corrected(scope, hold, actual, started, now))

    def learn(self, consumer: Consumer, model: str, operation: Operation, size: Size, usage: Usage) -> None:
        """Refine later estimates by the usage of one call whose work is done."""
        self._learn(self._limits_of(consumer, model, operation, self._table.now()), size, usage)

    @staticmethod
    def _learn(limits: CallLimits, size: Size, usage: Usage) -> None:
        """Learn from one call of the model: the sum of many would teach that answers have millions of tokens."""
        if limits.limits and usage.input_tokens and not (usage.estimated or usage.summed):
            limits.learn(size, usage)

    def release(self, reservation: Reservation) -> None:
        """Return all that a call reserved: nothing was served."""
        self.settle(reservation, requests=0.0)

    def _book(
        self,
        reservation: Reservation,
        usage: Usage,
        served_by: Target | None,
        beside: Iterable[tuple[Target, Usage]],
        requests: float,
    ) -> CallLimits:
        """Book a usage in place of what the reservation has so far. Return the limits of the model that served."""
        reservation.booked = usage, served_by, beside, requests
        served = served_by.model if served_by is not None else ""
        serving = next((one for one in reservation.serving if one.model == served), reservation.call_limits)
        if not reservation.limits:
            return serving
        priced = serving.priced or reservation.call_limits.priced
        price = serving.price
        actual = self._amounts(usage, served_by, price, requests, priced=priced)
        for target, charged in (*beside, *reservation.late):
            actual = actual.plus(self._amounts(charged, target, price, 0.0, priced=priced))
        booked = [actual] * len(reservation.limits)
        if (held := reservation.held) is not None:
            amounts = (held.get(limit.scope.key, _NO_HOLD).amounts for limit in reservation.limits)
            booked = [actual.plus(kept) for kept in amounts]
        if reservation.serving:
            keys = {limit.scope.key for limit in serving.limits}
            booked = [
                amounts if limit.scope.key in keys else NOTHING
                for limit, amounts in zip(reservation.limits, booked, strict=True)
            ]
        for limit, before, now in zip(reservation.limits, reservation.costs, booked, strict=True):
            limit.settle(before, now)
        reservation.costs = booked
        return serving

    def headers(self, reservation: Reservation, consumed: Callable[[], int] | None = None) -> dict[str, str]:
        """The caller's limits in OpenAI's form: of several limits, those of the narrowest. Also the headers that the
        configuration names, for callers used to those of API Management.

        `consumed` returns the tokens that the call has used so far; None: it has not been served."""
        headers, named = _headers.headers(reservation.call_limits.limits, self._table.now()), self._settings.headers
        if consumed is None:
            return headers
        if named.remaining_tokens and (remaining := headers.get("x-ratelimit-remaining-tokens")) is not None:
            headers[named.remaining_tokens.lower()] = remaining
        if named.consumed_tokens:
            headers[named.consumed_tokens.lower()] = str(consumed())
        return headers

    def state(self) -> dict[str, Any]:
        """The state of this instance. `safe`: it decides alone, because the table does not answer."""
        hits = [{"scope": kind, "limit": limit, "calls": calls} for (kind, limit), calls in sorted(self.hits.items())]
        lost = self.safe_since
        since = datetime.fromtimestamp(lost, UTC).isoformat(timespec="seconds") if lost is not None else None
        return {"mode": "normal" if lost is None else "safe", "safe_since": since, "hits": hits}

    async def close(self) -> None:
        """Settle everything, and give back what is on lease."""
        await self._scheduler.settle_all()

    # --- admission ----------------------------------------------------------------------------------------------------

    def _sized(self, call: Call, call_limits: CallLimits) -> Size:
        """The size of a call. Raises `ModelWithoutPrice` by the configuration, else warns if no budget can count it.
        The model of a run may be its assistant's, which only the answer names."""
        if call_limits.priced and call_limits.price is None and call_limits.model:
            if self._settings.unpriced == "refuse":
                raise ModelWithoutPrice(
                    f"The model {call_limits.model!r} has no known price, so no budget can count its calls. Ask "
                    f"{self._settings.contact} to set its price under `prices`."
                )
            self._warn_of_no_price(call_limits.model)
        return estimation.size(call)

    async def _admit_all(self, limits: Sequence[LeasedLimit], costs: Sequence[Amounts], now: float) -> None:
        for i, (limit, cost) in enumerate(zip(limits, costs, strict=True)):
            if not limit.spend(cost, now):
                await self._wait(limits, costs, i, now)
                break

    async def _wait(self, limits: Sequence[LeasedLimit], costs: Sequence[Amounts], spent: int, now: float) -> None:
        """Admit a call at all limits at once, from the one at `spent` on, whose lease does not cover it."""
        admitted, waiting = list(range(spent)), [spent]
        for i in range(spent + 1, len(limits)):
            (admitted if limits[i].spend(costs[i], now) else waiting).append(i)

        async def admit(i: int) -> Exception | None:
            try:
                await self._admit(limits[i], costs[i], now)
            except Exception as error:
                return error
            admitted.append(i)
            return None

        errors: list[Exception] = []
        try:
            # A single one needs no task.
            ends = [await admit(spent)] if len(waiting) == 1 else await asyncio.gather(*map(admit, waiting))
            errors = [error for error in ends if error is not None]
            if denials := [error for error in errors if isinstance(error, Denied)]:
                worst = max(denials, key=lambda denied: (denied.denial.kind == "quota", denied.denial.wait))
                raise _headers.error(worst, limits, now, self._settings.contact)
            if errors:
                raise errors[0]
        except BaseException:
            for i in admitted:
                limits[i].settle(costs[i], NOTHING)
            raise

    async def _admit(self, limit: LeasedLimit, cost: Amounts, now: float) -> None:
        try:
            await limit.admit(cost, now)
        except Denied as denied:
            soft = limit.scope.limits.soft or False
            self._report(denied, soft)
            if not soft:
                raise
            limit.overdraw(cost)

    def _report(self, denied: Denied, soft: bool) -> None:
        scope, denial = denied.scope, denied.denial
        self.hits[scope.kind, denial.dimension] += 1
        line = {
            "event": "soft_limit_exceeded" if soft else "limit_exceeded",
            "scope": scope.logged,
            "limit": denial.dimension,
            "kind": denial.kind,
            "wait": round(denial.wait, 3),
        }
        logger.info(msgspec.json.encode(line).decode())

    # --- the limits of a call -----------------------------------------------------------------------------------------

    def _limits_of(
        self, consumer: Consumer, model: str, operation: Operation, now: float, named: str = ""
    ) -> CallLimits:
        """The limits of the calls of this consumer, for the user behind its key who is `named`."""
        product = consumer.product if self._configuration.products else ""  # else it is a label, which limits nothing
        user = self._users.limited(consumer.id, named, now) if named and self._limits_users else ""
        key = (consumer.id, product, user, model, operation.name)
        former = self._call_limits.get(key)
        if former is not None and former.hold_for(consumer, self._generation, now):
            self._call_limits.move_to_end(key)
            return former
        limits = tuple(map(self._limit, scopes.of_call(consumer, model, self._configuration, user)))
        priced = any(limit.scope.limited[2] for limit in limits)
        estimated = priced or any(limit.scope.limited[1] for limit in limits)
        price, until = self._dearest(model, operation, now) if priced else (None, math.inf)
        experience = former.experience if former is not None else None
        self._call_limits[key] = CallLimits(
            consumer,
            self._generation,
            model,
            operation.metered == "tokens",
            limits,
            estimated,
            priced,
            price,
            until,
            experience,
        )
        return self._call_limits[key]

    def _dearest(self, model: str, operation: Operation, now: float) -> tuple[Price | None, float]:
        """The highest price of a model, of any for a run that leaves it to its assistant; and the time at which a price
        changes."""
        models = self._configuration.model_names() if operation.makes in ("run", "batch") and not model else (model,)
        known = [price for name in models if (price := self._prices.dearest(name, now)) is not None]
        dearest = max(known, key=lambda price: (price.output or 0, price.input or 0), default=None)
        return dearest, self._prices.next_change(now)

    def _limit(self, scope: Scope) -> LeasedLimit:
        limit = self._limits.get(scope.key)
        if limit is None:
            limit = self._leased(scope)
        elif limit.scope != scope:
            limit.change(scope)
        self._limits[scope.key] = limit
        return limit

    def _leased(self, scope: Scope) -> LeasedLimit:
        alert = _alert_nobody if scope.kind == scopes.USER else self._alert
        return LeasedLimit(scope, self._table, self._scheduler, alert)

    def _amounts(
        self, usage: Usage, target: Target | None, price: Price | None, requests: float, *, priced: bool
    ) -> Amounts:
        """The amounts of a usage, at the price of the target it was used on, else at this `price`."""
        usd = 0.0
        if priced:
            cost = pricing.cost(self._prices.of_call(usage, target, self._table.now()) if target else price, usage)
            if cost is None and target is not None:
                self._warn_of_no_price(target.model)
            usd = (cost or 0) / USD
        # A batch may be as large as days of calls, at a pace that its caller does not set: it counts towards budgets
        # alone.
        tokens = 0 if usage.service_tier == BATCH else usage.input_tokens + usage.output_tokens
        return Amounts(requests, float(tokens), usd)

    def _warn_of_no_price(self, model: str) -> None:
        if model not in self._unpriced and len(self._unpriced) < _MOST_KEPT:  # callers may name any model
            self._unpriced.add(model)
            logger.warning("the model %s has no known price: its calls do not count towards budgets", model[:128])
