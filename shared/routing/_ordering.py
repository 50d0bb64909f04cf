"""The order of targets: by the rotation, the prompt cache, the load, and the state of their deployments."""

from collections.abc import Iterable, Sequence

from shared.errors import RateLimitExceeded
from shared.routing import _health, _prompt_cache
from shared.routing._groups import Candidate, Group
from shared.routing._health import HEALTHY
from shared.routing._models import Allowed
from shared.routing._prompt_cache import Share
from shared.routing.breakers import Breakers
from shared.routing.rotation import Rotation
from shared.types import Target

_MUCH_MORE = 2.0  # times the calls under way of the next in turn: a first one with more is passed over
_FEW = 2  # calls under way that say nothing about a backend
_MOST_AHEAD = 32  # turns that a backend may be ahead because of a prefix


class Ordering:
    """The turns of one configuration's targets in this process."""

    def __init__(self, rotation: Rotation, breakers: Breakers) -> None:
        self._rotation = rotation
        self._breakers = breakers
        self._spins = 0
        self._ahead: dict[tuple[str, str], int] = {}  # turns that a pool's backend has had too early

    def best(
        self, chain: Iterable[Sequence[Group]], tokens: float, allowed: Allowed | None, prefix: bytes | None, tier: str
    ) -> tuple[list[Target], list[Target]]:
        """The targets that may serve, best first, and those that are out of rotation at the moment. `chain`: the groups
        of each model. A model's own targets come before the next model's, even if their quota would likely reject this
        call: the caller did not ask for another model."""
        breakers, now = self._breakers, self._breakers.clock()
        usable: list[Target] = []
        rest: list[Target] = []
        for groups in chain:
            good: list[Target] = []
            short: list[Target] = []
            for group in groups:
                ready: list[Candidate] = []
                for candidate in self._in_turn(group, serving=bool(good or usable)):
                    if tier:
                        candidate = self._of_tier(candidate.target, tier)
                    target, state = candidate
                    if allowed is not None and not allowed(target):
                        continue
                    if state.health is not HEALTHY and not breakers.usable(target, now, tokens):
                        rest.append(target)
                    elif state.quota is not None and breakers.refuses(target, tokens, now):
                        short.append(target)
                    else:
                        ready.append(candidate)
                if len(ready) > 1 and not good and group.pool:
                    self._choose_first(group, ready, prefix)
                good += [target for target, _ in ready]
            usable += good
            usable += short
        return usable, rest

    def last_resort(self, rest: list[Target], tokens: float, *, serving: bool) -> list[Target]:
        """The targets to try when all usable ones have failed. `serving`: there are usable ones."""
        now, health = self._breakers.clock(), self._breakers.health
        throttled = [t for t in rest if health(t).ejected_until <= now and not health(t).usable_at(now, tokens)]
        ready = [target for target in throttled if not health(target).cooling_at(now, tokens)]
        if throttled and not serving:
            # They asked for more time than they are given, so only some calls find out if they really need it.
            ready = [target for target in ready if not self._breakers.held_back(target)]
            if not ready:
                raise self.throttled(throttled, tokens=tokens)
        # An ejected target comes last: it would most likely fail, but a call without another target loses nothing.
        ejected = [target for target in rest if target not in throttled]
        waiting = [target for target in throttled if target not in ready]
        return ready + waiting + sorted(ejected, key=lambda target: health(target).ejected_until)

    def throttled(
        self, targets: Iterable[Target], retry_after: Sequence[float] = (), tokens: float = 0
    ) -> RateLimitExceeded:
        """The error if the throttled among these targets are all that is left. `retry_after`: the waits that backends
        have sent for this very call."""
        now = self._breakers.clock()
        waits = [wait for target in targets if (wait := self._breakers.health(target).wait_at(now, tokens)) > 0]
        wait = min(waits, default=min(retry_after, default=_health.DEFAULT_COOL_DOWN))
        return RateLimitExceeded(
            f"Every backend of this model is throttled by Azure OpenAI. Retry after {wait:.1f} seconds.", wait
        )

    def _of_tier(self, target: Target, tier: str) -> Candidate:
        target = Target(target.backend, target.model, target.deployment, tier)
        return Candidate(target, self._breakers.watched(target))

    def _in_turn(self, group: Group, *, serving: bool) -> Sequence[Candidate]:
        """The group's targets in the rotation's order. `serving`: other targets come first, so this takes no turn."""
        orders = group.orders
        if len(orders) == 1 and (not orders[0][0].target.backend.provisioned or not group.pool):
            return orders[0]
        if serving:
            self._spins += 1
            return orders[self._spins % len(orders)]
        order = orders[self._rotation.ticket(group.pool, group.turns) % len(orders)]
        if self._ahead:
            place = (group.pool, order[0].target.backend.name)
            if ahead := self._ahead.get(place, 0):
                self._ahead[place] = ahead - 1
                return (*order[1:], order[0])
        return order

    def _choose_first(self, group: Group, ready: list[Candidate], prefix: bytes | None) -> None:
        """Move the one that is to serve to the front: it has the prompt in its cache, or much less load than the one
        whose turn it is. A slower backend must not change the configured shares, hence *much* less."""
        if prefix is not None:
            shares = [Share(t.backend.name, t.backend.weight, state.in_flight) for t, state in ready]
            if chosen := _prompt_cache.choose(prefix, shares, self._rotation.instances(group.pool)):
                ready.insert(0, ready.pop(chosen))
                # It serves out of turn, so it is passed over once when its turn comes.
                place = (group.pool, ready[0].target.backend.name)
                self._ahead[place] = min(self._ahead.get(place, 0) + 1, _MOST_AHEAD)
            return
        load = ready[0].state.in_flight
        if load <= _FEW:
            return
        first, second = ready[0].target.backend, ready[1].target.backend
        if load * second.weight > _MUCH_MORE * first.weight * (ready[1].state.in_flight + _FEW):
            ready[0], ready[1] = ready[1], ready[0]
