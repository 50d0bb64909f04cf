"""The limits that this process has at hand: of scopes, of the calls of a key to a model, and of client addresses."""

import copy
import itertools
import math
from typing import Self

from shared.auth import client_address
from shared.concurrency import LruDict
from shared.config.document import Configuration
from shared.limits import scopes
from shared.limits._call_limits import CallLimits
from shared.limits._exchange import Alert
from shared.limits._lease import LeasedLimit
from shared.limits._pricing import LimitPricing
from shared.limits._rows import LimitsTable
from shared.limits._settlement import SettlementScheduler
from shared.limits._users import UsersOfKeys
from shared.limits.scopes import Scope
from shared.types import Consumer, Operation

_MOST_KEPT = 10_000  # pairs of key and model whose limits are at hand; also client addresses


class LimitsAtHand:
    """Those by one configuration. Dropping a limit loses no settlement: the scheduler keeps it until it owes
    nothing."""

    def __init__(
        self,
        table: LimitsTable,
        scheduler: SettlementScheduler,
        alert: Alert,
        configuration: Configuration,
        pricing: LimitPricing,
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._alert = alert
        self._generations = itertools.count()
        self._users = UsersOfKeys()
        self.calls: LruDict[tuple[str, str, str, str, str], CallLimits] = LruDict(_MOST_KEPT)
        self.scopes: LruDict[str, LeasedLimit] = LruDict(_MOST_KEPT)
        self.addresses: LruDict[str, tuple[LeasedLimit, ...]] = LruDict(_MOST_KEPT)
        self._configure(configuration, pricing)

    def with_configuration(self, configuration: Configuration, pricing: LimitPricing) -> Self:
        """The limits by another configuration, with the same leases."""
        other = copy.copy(self)
        if configuration.limits.addresses != self._configuration.limits.addresses:
            other.addresses = LruDict(_MOST_KEPT)
        other._configure(configuration, pricing)
        return other

    def _configure(self, configuration: Configuration, pricing: LimitPricing) -> None:
        self._configuration = configuration
        self._pricing = pricing
        self._generation = next(self._generations)
        self._limits_users = scopes.is_limited(configuration.limits.users)

    def of_call(self, consumer: Consumer, model: str, operation: Operation, now: float, named: str = "") -> CallLimits:
        """The limits of the calls of this consumer, for the user behind its key who is `named`."""
        product = consumer.product if self._configuration.products else ""  # else it is a label, which limits nothing
        user = self._users.limited(consumer.id, named, now) if named and self._limits_users else ""
        key = (consumer.id, product, user, model, operation.name)
        former = self.calls.get(key)
        if former is not None and former.hold_for(consumer, self._generation, now):
            self.calls.move_to_end(key)
            return former
        limits = tuple(map(self.of_scope, scopes.of_call(consumer, model, self._configuration, user)))
        priced = any(limit.scope.limited[2] for limit in limits)
        price, until = self._pricing.dearest(model, operation, now) if priced else (None, math.inf)
        self.calls[key] = CallLimits(
            consumer=consumer,
            generation=self._generation,
            model=model,
            text=operation.metered == "tokens",
            limits=limits,
            estimated=priced or any(limit.scope.limited[1] for limit in limits),
            priced=priced,
            price=price,
            until=until,
            experience=former.experience if former is not None else None,
        )
        return self.calls[key]

    def of_scope(self, scope: Scope) -> LeasedLimit:
        if scope.kind == scopes.ADDRESS:
            return next(limit for limit in self._of_network(scope.name) if limit.scope.key == scope.key)
        limit = self.scopes.get(scope.key)
        if limit is None:
            limit = self._lease(scope)
        elif limit.scope != scope:
            limit.change(scope)
        self.scopes[scope.key] = limit
        return limit

    def of_address(self, address: str) -> tuple[LeasedLimit, ...]:
        return self._of_network(client_address.limited_network(address))

    def _of_network(self, network: str) -> tuple[LeasedLimit, ...]:
        limits = self.addresses.get(network)
        if limits is None:
            limits = tuple(map(self._lease, scopes.of_address(network, self._configuration.limits.addresses)))
        self.addresses[network] = limits
        return limits

    def _lease(self, scope: Scope) -> LeasedLimit:
        alert = _alert_nobody if scope.kind == scopes.USER else self._alert
        return LeasedLimit(scope, self._table, self._scheduler, alert)


def _alert_nobody(scope: Scope, dimension: str, percentage: int, until: float) -> None:
    """For the limits of users: a key may have thousands of them."""
