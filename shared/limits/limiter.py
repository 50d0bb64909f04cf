"""Holds calls to their limits: reserves before a call, and settles when it has ended.

Several limits apply to a call at once (`scopes.py`): of its key, of the key on that model, of its team, of its product,
of the user behind the key, and of the model. Each is a row of the table `limits`, of which this process leases slices
(`_lease.py`). A call passes when all of them admit it; if one denies it, the others get back what it has reserved.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from shared.azure_openai.batch_lines import BatchSize
from shared.config.document import Configuration
from shared.limits import _headers, estimation, scopes
from shared.limits._amounts import NOTHING, Amounts
from shared.limits._call_limits import CallLimits
from shared.limits._exchange import Alert
from shared.limits._joint_admission import JointAdmission
from shared.limits._lease import LeasedLimit
from shared.limits._limits_at_hand import LimitsAtHand
from shared.limits._pricing import LimitPricing
from shared.limits._rows import LimitsTable
from shared.limits._settlement import SettlementScheduler
from shared.limits.holds import Hold, corrected
from shared.limits.reservation import Arrival, Reservation
from shared.storage import Store, names
from shared.types import Call, Consumer, Operation, Target, Usage
from shared.usage.token_averages import Size

_ONE_REQUEST = Amounts(1.0)
_NO_USAGE = Usage()


class Limiter:
    """One per process. `alert` is called for quotas that are nearly or entirely used."""

    def __init__(self, store: Store, configuration: Configuration, alert: Alert) -> None:
        self._table = LimitsTable(store.table(names.LIMITS), store.now)
        self._scheduler = SettlementScheduler()
        self._configuration = configuration
        self._pricing = LimitPricing(configuration, store.now, set())
        self._at_hand = LimitsAtHand(self._table, self._scheduler, alert, configuration, self._pricing)
        self.hits: Counter[tuple[str, str]] = Counter()  # (kind of scope, dimension) -> denials
        self._joint = JointAdmission(configuration.limits.contact, self.hits)

    def with_configuration(self, configuration: Configuration) -> Self:
        """This limiter for another configuration: leases, settlements and counts are shared with it. Calls that it has
        admitted end under its own."""
        other = copy.copy(self)
        other._configuration = configuration
        other._pricing = self._pricing.with_configuration(configuration)
        other._at_hand = self._at_hand.with_configuration(configuration, other._pricing)
        other._joint = JointAdmission(configuration.limits.contact, self.hits)
        return other

    @property
    def safe_since(self) -> float | None:
        """The beginning of safe mode, in seconds since 1970; None: the table answers."""
        return self._table.reach.lost_since

    @property
    def limits_addresses(self) -> bool:
        limits = self._configuration.limits.addresses
        return bool(limits.requests_per_minute or limits.request_quota or limits.tokens_per_minute)

    async def admit(self, address: str) -> Arrival:
        """Count a request of this client address, before its key is read. A denied address costs no read of keys, and a
        read of its limits every few seconds at most. Raises `RateLimitExceeded` (429), `QuotaExceeded` (403)."""
        limits = self._at_hand.of_address(address)
        costs = (_ONE_REQUEST,) * len(limits)
        await self._joint.admit(limits, costs, self._table.now())
        return Arrival(limits, costs)

    async def arrive(self, consumer: Consumer, model: str = "") -> Arrival:
        """Admit the request and the slot of a call whose body has not arrived, or of a connection, at the limits of its
        key and its team, and of its `model` if that is known. Raises as `reserve`."""
        due = [one for one in scopes.of_call(consumer, model, self._configuration) if one.limited[0] or one.limited[3]]
        limits = tuple(map(self._at_hand.of_scope, due))
        costs = tuple(Amounts(1.0, slots=1.0 if scope.limited[3] else 0.0) for scope in due)
        await self._joint.admit(limits, costs, self._table.now())
        return Arrival(limits, costs)

    def depart(self, arrival: Arrival, *, served: bool = False) -> None:
        """Return what an arrival reserved: its call came to nothing, or it was a connection that was `served`, whose
        request counts. For its address it remains a request in any case, or guesses of keys would be free."""
        for limit, cost in zip(arrival.limits, arrival.costs, strict=True):
            scope = limit.scope
            counts = (served or scope.kind == scopes.ADDRESS) and not scope.counts_successes
            limit.settle(cost, _ONE_REQUEST if counts else NOTHING)

    async def reserve_within(
        self, consumer: Consumer, call: Call, connection: Arrival, *, begun: bool = False
    ) -> Reservation:
        """Admit a call on a connection, which holds the slots for it at its own limits. `begun`: the backend has begun
        it already, so it passes whatever the limits say, and counts with its end. Raises as `reserve`."""
        now, at_address = self._table.now(), connection.at_address
        call_limits, limits, counts_tokens = self._limits_of(consumer, call, at_address, now)
        if begun:
            size = estimation.size(call) if counts_tokens else None
            return Reservation(call_limits, [NOTHING] * len(limits), size, at_address)
        size = self._sized(call, call_limits) if counts_tokens else None
        held = {limit.scope.key for limit, cost in zip(connection.limits, connection.costs, strict=True) if cost.slots}
        costs = [
            msgspec.structs.replace(cost, slots=0.0) if limit.scope.key in held else cost
            for limit, cost in zip(limits, call_limits.costs(limits, call, size, now), strict=True)
        ]
        await self._joint.admit(limits, costs, now)
        return Reservation(call_limits, costs, size, at_address)

    async def reserve(self, consumer: Consumer, call: Call, arrival: Arrival | None = None) -> Reservation:
        """Admit a call. Nothing is awaited if the leases at hand cover it. `arrival`: reserved already; the reservation
        takes it over.

        Raises `RateLimitExceeded` (429), `QuotaExceeded`, `BudgetExceeded`, `ModelWithoutPrice` (403), and
        `StoreUnavailable` (503) for a quota that was never read and cannot be read now."""
        now, at_address = self._table.now(), arrival.at_address if arrival is not None else ()
        call_limits, limits, counts_tokens = self._limits_of(consumer, call, at_address, now)
        if not limits:
            return Reservation(call_limits, (), None)
        size = self._sized(call, call_limits) if counts_tokens else None
        costs = call_limits.costs(limits, call, size, now)
        if arrival is None:
            await self._joint.admit(limits, costs, now)
        else:
            due = [(limit, cost.minus(arrival.at(limit))) for limit, cost in zip(limits, costs, strict=True)]
            due = [(limit, cost) for limit, cost in due if any(cost.each())]
            await self._joint.admit([limit for limit, _ in due], [cost for _, cost in due], now)
            self.depart(arrival.without(limits))  # a limit may have been dropped from memory meanwhile
        return Reservation(call_limits, costs, size, at_address)

    async def reserve_model(self, reservation: Reservation, consumer: Consumer, call: Call, model: str) -> None:
        """Admit an admitted call at the limits of another model, which is about to serve it. Raises as `reserve`."""
        now = self._table.now()
        call_limits = self._at_hand.of_call(consumer, model, call.operation, now, call.user)
        reserved = {limit.scope.key for limit in reservation.limits}
        limits = [limit for limit in call_limits.limits if limit.scope.key not in reserved]
        size = self._sized(call, call_limits) if call_limits.estimated else None
        costs = call_limits.costs(limits, call, size, now)
        await self._joint.admit(limits, costs, now)
        reservation.limits, reservation.costs = [*reservation.limits, *limits], [*reservation.costs, *costs]
        reservation.size = reservation.size or size
        reservation.serving += (call_limits,)

    def _limits_of(
        self, consumer: Consumer, call: Call, at_address: tuple[LeasedLimit, ...], now: float
    ) -> tuple[CallLimits, tuple[LeasedLimit, ...], bool]:
        """The limits of a call; the same with those of its address; True if some count tokens that it takes."""
        model = self._configuration.served(call.model[:128], now)
        call_limits = self._at_hand.of_call(consumer, model, call.operation, now, call.user)
        estimated = call_limits.estimated or any(limit.scope.limited[1] for limit in at_address)
        return call_limits, call_limits.limits + at_address, estimated and estimation.generates(call)

    def _sized(self, call: Call, call_limits: CallLimits) -> Size:
        self._pricing.check(call_limits)
        return estimation.size(call)

    async def reserve_batch(self, reservation: Reservation, call: Call, batch: BatchSize) -> None:
        """Admit a batch, which was admitted as a call, at its size. Raises as `reserve`."""
        limits, now = reservation.call_limits, self._table.now()
        if not limits.priced:
            return
        price = self._pricing.of_batch(batch, now, limits.price)
        size = Size(batch.bytes, answers=batch.answers)
        costs = msgspec.structs.replace(limits, price=price).costs(reservation.limits, call, size, now)
        # Nothing comes back: what a call without a size reserves is less than any batch takes.
        more = [Amounts(usd=max(0.0, cost.usd - one.usd)) for cost, one in zip(costs, reservation.costs, strict=True)]
        await self._joint.admit(reservation.limits, more, now)
        reservation.costs = [one.plus(extra) for one, extra in zip(reservation.costs, more, strict=True)]

    def settle(
        self,
        reservation: Reservation,
        usage: Usage = _NO_USAGE,
        served_by: Target | None = None,
        beside: Iterable[tuple[Target, Usage]] = (),
        status: int = 200,
    ) -> None:
        """Book what a call took, at the price and the limits of the model that served it. `beside`: the charges of
        attempts that did not answer it, with their targets. `status`: of its answer; 0, or 500 and more: no backend
        served it. Calls after the first, and after `release`, do nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        self.book(reservation, usage, served_by, beside, status)
        if reservation.size is not None:
            self._learn(reservation.serving_by(served_by), reservation.size, usage)

    def charge(self, reservation: Reservation, target: Target, usage: Usage) -> None:
        """Book the charge of an attempt that ended late, beside what the call took."""
        reservation.late += ((target, usage),)
        if reservation.booked is not None:
            self.book(reservation, *reservation.booked)

    def hold(self, reservation: Reservation, call: Call, model: str) -> Mapping[str, Hold]:
        """Keep what a call has reserved when it ends, since its work goes on: its settlement books that. Return it by
        the keys of the scopes. `model`: the configured name of the one that works, which only a run's answer
        has."""
        now, limits = self._table.now(), reservation.limits
        serving = reservation.limits_of(model)
        costs, size = reservation.costs, reservation.size
        if call.makes == "run" and size is not None and serving.priced and model not in ("", serving.model):
            priced = msgspec.structs.replace(serving, price=self._pricing.prices.dearest(model, now))
            costs = priced.costs(limits, call, size, now)
        keys = reservation.held_at(serving)
        reserved = [(limit.scope.key, cost) for limit, cost in zip(limits, costs, strict=True)]
        reservation.held = {key: Hold(cost.tokens, cost.usd) for key, cost in reserved if key in keys}
        return reservation.held

    def settle_held(
        self,
        consumer: Consumer,
        model: str,
        held: Mapping[str, Hold],
        started: float,
        charges: Iterable[tuple[Usage, Target | None]],
    ) -> None:
        """Book the usage of work that a call of this consumer to this model `started`, in place of what was held."""
        now = self._table.now()
        for scope in scopes.with_keys(held, consumer, model, self._configuration):
            actual = NOTHING
            for usage, target in charges:
                actual = actual.plus(self._pricing.amounts(usage, target, None, 0.0, priced=scope.limited[2]))
            hold = held[scope.key]
            self._at_hand.of_scope(scope).settle(hold.amounts, corrected(scope, hold, actual, started, now))

    def learn(self, consumer: Consumer, model: str, operation: Operation, size: Size, usage: Usage) -> None:
        """Refine later estimates by the usage of one call whose work is done."""
        self._learn(self._at_hand.of_call(consumer, model, operation, self._table.now()), size, usage)

    @staticmethod
    def _learn(limits: CallLimits, size: Size, usage: Usage) -> None:
        """Learn from one call of the model: the sum of many would teach that answers have millions of tokens."""
        if usage.input_tokens and not (usage.estimated or usage.summed):
            limits.learn(size, usage)

    def release(self, reservation: Reservation) -> None:
        """Return all that a call reserved: nothing was served."""
        self.settle(reservation, status=0)

    def book(
        self,
        reservation: Reservation,
        usage: Usage,
        served_by: Target | None,
        beside: Iterable[tuple[Target, Usage]],
        status: int,
    ) -> None:
        """Book what a call took, in place of what is booked for it so far."""
        reservation.booked = usage, served_by, beside, status
        if not reservation.limits:
            return
        serving = reservation.serving_by(served_by)
        priced = serving.priced or reservation.call_limits.priced
        price = serving.price
        requests = float(0 < status < 500)
        actual = self._pricing.amounts(usage, served_by, price, requests, priced=priced)
        for target, charged in (*beside, *reservation.late):
            actual = actual.plus(self._pricing.amounts(charged, target, price, 0.0, priced=priced))
        reservation.replace(actual, serving, succeeded=200 <= status < 400)

    def headers(self, reservation: Reservation, consumed: Callable[[], int] | None = None) -> dict[str, str]:
        """The caller's limits in OpenAI's form: of several limits, those of the narrowest. Also the headers that the
        configuration names, for callers used to those of API Management.

        `consumed` returns the tokens that the call has used so far; None: it has not been served."""
        headers = _headers.headers(reservation.header_limits, self._table.now())
        if consumed is None:
            return headers
        named = self._configuration.limits.headers
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
