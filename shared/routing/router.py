"""Which targets a call may go to, in order: pure decisions over the configuration, the rotation and the breakers."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from shared.config.document import Configuration, Model
from shared.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    PinNotAllowed,
    RateLimitExceeded,
    RegionNotAllowed,
    StateConflict,
)
from shared.routing import _health, _prompt_cache, preferences, quota
from shared.routing._health import HEALTHY
from shared.routing._prompt_cache import Share
from shared.routing.breakers import Breakers, DeploymentState
from shared.routing.preferences import RoutingPreferences
from shared.routing.rotation import Rotation, smooth_order
from shared.types import ANYWHERE, UNBOUND, Attempt, Binding, Call, Consumer, Plan, Target

_MUCH_MORE = 2.0  # times the calls of the next in turn that the first one has to have under way to be passed over
_FEW = 2  # calls under way that say nothing about a backend
_MOST_AHEAD = 32  # turns that a backend may be ahead on account of a prefix
_LONGEST_HEADER = 2000  # characters; some proxies take no more than 4 kB of headers
_PLAIN = Model()

Allowed = Callable[[Target], bool]


class Candidate(NamedTuple):
    """A target, and what is known of its deployment, at hand because every call looks at it."""

    target: Target
    watched: DeploymentState


class Group(msgspec.Struct, frozen=True):
    """Targets of one model that take turns. `orders`: for every place of the rotation's round of `turns`, each target
    once. `pool` "": they take none."""

    pool: str
    turns: int
    orders: tuple[tuple[Candidate, ...], ...]

    @property
    def targets(self) -> list[Target]:
        return [seat.target for seat in self.orders[0]]


def groups_by_model(configuration: Configuration, breakers: Breakers) -> dict[str, tuple[Group, ...]]:
    """Every model's groups: the lowest priority number first, and of the same the provisioned ones, which are paid for
    whether they are used or not."""
    table: dict[str, tuple[Group, ...]] = {}
    for model in configuration.model_names():
        backends = sorted(
            (b for b in configuration.backends if model in b.models), key=lambda b: (b.priority, b.kind == "standard")
        )
        table[model] = tuple(
            _group(
                f"{model}:{priority}" + (":provisioned" if kind == "provisioned" else ""),
                [_seat(Target(b, model, b.models[model]), breakers) for b in members],
            )
            for (priority, kind), members in itertools.groupby(backends, key=lambda b: (b.priority, b.kind))
        )
    return table


class Router:
    """Orders the targets of a call."""

    def __init__(self, configuration: Configuration, rotation: Rotation, breakers: Breakers) -> None:
        self._groups = groups_by_model(configuration, breakers)
        self._about = configuration.models
        self._aliases = {alias: name for name, about in configuration.models.items() for alias in about.aliases}
        by_priority = sorted(configuration.backends, key=lambda backend: backend.priority)
        # Calls for no model (of files, threads …) go to backends as they are; those targets have no deployment.
        seats = tuple(_seat(Target(backend, "", ""), breakers) for backend in by_priority)
        self._without_model = (Group("", 1, (seats,)),)
        self._rotation = rotation
        self._breakers = breakers
        self._spins = 0
        self._ahead: dict[tuple[str, str], int] = {}  # turns that a pool's backend has had too early
        for groups in self._groups.values():
            self._prepare(groups)

    def models(self, consumer: Consumer) -> list[str]:
        """The models that a consumer may use, in the order of the configuration."""
        return [m for m in self._groups if self._allowed(consumer, m) and self._within_reach(consumer, m)]

    def shown(self, consumer: Consumer, name: str) -> str:
        """As `model`, of one that the consumer may use where it is. Raises `RegionNotAllowed`, too."""
        model = self.model(consumer, name)
        if not self._within_reach(consumer, model):
            raise _out_of_reach()
        return model

    def model(self, consumer: Consumer, name: str) -> str:
        """The configured model behind the name a caller used. Raises `ModelNotFound` and `ModelNotAllowed`."""
        model = self._aliases.get(name, name)
        if model not in self._groups:
            known = ", ".join(self.models(consumer)) or "none"
            raise ModelNotFound(
                f"The model {name[:128]!r} does not exist here. This key may use: {known}.", param="model"
            )
        if not self._allowed(consumer, model):
            allowed = ", ".join(self.models(consumer)) or "none"
            raise ModelNotAllowed(f"This key may not use the model {name!r}. It may use: {allowed}.", param="model")
        return model

    def unusable(self) -> list[str]:
        """The models without a backend that could be called now."""
        now, health = self._breakers.clock(), self._breakers.health
        return [
            model
            for model, groups in self._groups.items()
            if not any(health(target).usable_at(now) for group in groups for target in group.targets)
        ]

    def candidates(self, consumer: Consumer, call: Call, binding: Binding = UNBOUND) -> list[Target]:
        """The targets of the call's plan."""
        return self.plan(consumer, call, binding=binding).targets

    def plan(
        self, consumer: Consumer, call: Call, wished: RoutingPreferences = preferences.NONE, binding: Binding = UNBOUND
    ) -> Plan:
        """How a call is to be sent. The targets are never empty: usable ones by priority and rotation, then those of
        the fallback models; behind them, for a call that would fail otherwise, those that are left alone at the moment.

        `binding` is for calls to whom it matters where others went (`affinity.py`): only the backends that it allows,
        and the one that it prefers before all others, when that is usable.

        Raises `RateLimitExceeded` with the shortest wait when all that may be tried is throttled, and what `model` and
        `_restriction` raise.
        """
        if call.operation.model == "hidden" and consumer.models is not None:
            raise ModelNotAllowed(
                f"This key may use certain models only, and the gateway cannot see which ones {call.operation.name} "
                "would use. Ask the gateway's operator for a key without that restriction."
            )
        model = self.model(consumer, call.model) if call.model else ""
        about = self._about.get(model, _PLAIN)
        free = binding is UNBOUND
        allowed = self._restriction(consumer, model, wished, binding)
        fallbacks = self._fallbacks(consumer, model, wished)
        prefix = _prompt_cache.prefix(call) if free and about.prompt_cache_affinity else None
        tokens = quota.estimate(call)
        usable, rest = self._order((model, *fallbacks), tokens, allowed, prefix)
        if binding.first:
            usable.sort(key=lambda target: target.backend.name != binding.first)
        canary = self._canary(about, tokens, allowed, prefix) if free and about.canary is not None else []
        targets = canary + usable if canary else usable
        if rest:
            targets = targets + self._last_resort(rest, tokens, serving=bool(targets))
        if about is _PLAIN and wished is preferences.NONE:
            return Plan(model=model, targets=targets)
        return Plan(
            model=model,
            targets=targets,
            fallback_on=frozenset(about.fallback_on) if wished.fallbacks is None else _EVERY_REASON,
            seconds=wished.seconds,
            hedge=about.hedge if wished.hedge is None else wished.hedge,
            canary=canary[0].model if canary else "",
            shadow=self._shadow(about, tokens, allowed) if free else [],
            notes=self._notes(usable, rest, prefix, tokens) if wished.explain and consumer.access.explain else None,
        )

    def throttled(self, targets: Iterable[Target], told: Sequence[float] = (), tokens: float = 0) -> RateLimitExceeded:
        """What a caller is told when the throttled among these targets are all that is left. `told`: the waits that
        backends have told for this very call."""
        now = self._breakers.clock()
        waits = [wait for target in targets if (wait := self._breakers.health(target).wait_at(now, tokens)) > 0]
        wait = min(waits, default=min(told, default=_health.DEFAULT_COOL_DOWN))
        return RateLimitExceeded(
            f"Every backend of this model is throttled by Azure OpenAI. Retry after {wait:.1f} seconds.", wait
        )

    # --- the order ----------------------------------------------------------------------------------------------------

    def _order(
        self, chain: Sequence[str], tokens: float, allowed: Allowed | None, prefix: bytes | None
    ) -> tuple[list[Target], list[Target]]:
        """The targets of these models that may serve, best first, and those that are left alone at the moment. A
        model's own come before the next model's, even those whose quota would likely refuse this call: another model is
        what the caller did not ask for."""
        breakers, now = self._breakers, self._breakers.clock()
        usable: list[Target] = []
        rest: list[Target] = []
        for model in chain:
            good: list[Target] = []
            short: list[Target] = []
            for group in self._groups_of(model):
                ready: list[Candidate] = []
                for seat in self._in_turn(group, serving=bool(good or usable)):
                    target, watched = seat
                    if allowed is not None and not allowed(target):
                        continue
                    if watched.health is not HEALTHY and not breakers.usable(target, now, tokens):
                        rest.append(target)
                    elif watched.capacity is not None and breakers.refuses(target, tokens, now):
                        short.append(target)
                    else:
                        ready.append(seat)
                if len(ready) > 1 and not good and group.pool:
                    self._choose_first(group, ready, prefix)
                good += [target for target, _ in ready]
            usable += good
            usable += short
        return usable, rest

    def _in_turn(self, group: Group, *, serving: bool) -> Sequence[Candidate]:
        """The group's targets as the rotation has it. `serving`: others come first, so that no turn is taken here."""
        orders = group.orders
        if len(orders) == 1 and (orders[0][0].target.backend.kind == "standard" or not group.pool):
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
        """Put the one first that is to serve: it has the prompt in its cache, or is the less loaded of the two whose
        turn it is. Much less loaded: that a backend is slower must not overturn the shares that were configured."""
        if prefix is not None:
            shares = [Share(t.backend.name, t.backend.weight, watched.in_flight) for t, watched in ready]
            if chosen := _prompt_cache.choose(prefix, shares):
                ready.insert(0, ready.pop(chosen))
                # It goes out of turn, so it is passed over once when its turn comes.
                place = (group.pool, ready[0].target.backend.name)
                self._ahead[place] = min(self._ahead.get(place, 0) + 1, _MOST_AHEAD)
            return
        load = ready[0].watched.in_flight
        if load <= _FEW:
            return
        first, second = ready[0].target.backend, ready[1].target.backend
        if load * second.weight > _MUCH_MORE * first.weight * (ready[1].watched.in_flight + _FEW):
            ready[0], ready[1] = ready[1], ready[0]

    def _last_resort(self, rest: list[Target], tokens: float, *, serving: bool) -> list[Target]:
        """What may be tried when all that is usable has failed; `serving`: something is."""
        now, health = self._breakers.clock(), self._breakers.health
        throttled = [t for t in rest if health(t).ejected_until <= now and not health(t).usable_at(now, tokens)]
        ready = [target for target in throttled if not health(target).cooling_at(now, tokens)]
        if throttled and not serving:
            # They asked for more time than they are given, so only some calls find out whether they really need it.
            ready = [target for target in ready if not self._breakers.held_back(target)]
            if not ready:
                raise self.throttled(throttled, tokens=tokens)
        # An ejected target comes last: it would most likely fail, but a call with nobody left has nothing to lose.
        ejected = [target for target in rest if target not in throttled]
        waiting = [target for target in throttled if target not in ready]
        return ready + waiting + sorted(ejected, key=lambda target: health(target).ejected_until)

    # --- what a configuration or a caller may add ---------------------------------------------------------------------

    def _restriction(
        self, consumer: Consumer, model: str, wished: RoutingPreferences, binding: Binding
    ) -> Allowed | None:
        """Which targets a call may go to, where not to all. Raises `RegionNotAllowed`, `PinNotAllowed`, `StateConflict`
        when what it is bound to does not serve the model, and `InvalidRequest` for a pin that does not."""
        access, pin, only = consumer.access, wished.backend, binding.only
        anywhere = access is ANYWHERE or (access.regions is None and access.data_zones is None)
        if anywhere and not pin and only is None:
            return None
        if pin and not access.pin:
            raise PinNotAllowed(f"This key may not choose a backend: leave out the header {preferences.BACKEND}.")
        left = [target.backend for group in self._groups_of(model) for target in group.targets]
        if not (left := [backend for backend in left if only is None or backend.name in only]):
            raise StateConflict(f"{binding.reason} That backend does not serve the model of this call.", param="model")
        if not (left := [backend for backend in left if pin in ("", backend.name)]):
            raise InvalidRequest(
                f"{preferences.BACKEND}: no backend that may serve this call has the name {pin[:64]!r}.",
                param=preferences.BACKEND,
            )
        if not any(map(access.allows, left)):
            raise _out_of_reach()
        return lambda target: (
            (only is None or target.backend.name in only)
            and pin in ("", target.backend.name)
            and access.allows(target.backend)
        )

    def _fallbacks(self, consumer: Consumer, model: str, wished: RoutingPreferences) -> list[str]:
        """The models to fall back on. Those that a caller names itself have to exist and be its own to use."""
        if wished.fallbacks is not None:
            named = dict.fromkeys(self.model(consumer, name) for name in wished.fallbacks)
            return [name for name in named if name != model]
        about = self._about.get(model)
        if about is None or not about.fallbacks:
            return []
        return [name for name in about.fallbacks if self._allowed(consumer, name)]

    def _canary(self, about: Model, tokens: float, allowed: Allowed | None, prefix: bytes | None) -> list[Target]:
        """Where this call goes first to try a new deployment. It is the operator's choice, so keys need no permission
        for that model; their regions hold."""
        if about.canary is None or self._breakers.rng.random() >= about.canary.share:
            return []
        usable, _ = self._order((about.canary.model,), tokens, allowed, prefix)
        return usable[:1]

    def _shadow(self, about: Model, tokens: float, allowed: Allowed | None) -> list[Target]:
        if about.shadow is None or self._breakers.rng.random() >= about.shadow.share:
            return []
        usable, _ = self._order((about.shadow.model,), tokens, allowed, None)
        return usable[:1]

    def _notes(self, usable: list[Target], rest: list[Target], prefix: bytes | None, tokens: float) -> list[str]:
        """Why the targets come in this order, in a few words."""
        now = self._breakers.clock()
        first = "chosen by its prompt cache" if prefix is not None else "chosen by turn"
        notes = [f"{usable[0].model} on {usable[0].backend.name}: {first}"] if usable else []
        notes += [
            f"{target.backend.name}: quota too low for {tokens:.0f} tokens"
            for target in usable[1:]
            if self._breakers.refuses(target, tokens, now)
        ]
        for target in rest:
            health = self._breakers.health(target)
            until, word = max((health.ejected_until, "ejected"), (health.cooling_until, "cooling"))
            notes.append(f"{target.backend.name}: {word} for {max(until - now, 0):.1f} s ({health.reason})")
        return notes

    def _groups_of(self, model: str) -> tuple[Group, ...]:
        return self._groups[model] if model else self._without_model

    def _allowed(self, consumer: Consumer, model: str) -> bool:
        """Whether a policy names the model, or an alias of it."""
        return consumer.models is None or any(self._aliases.get(name, name) == model for name in consumer.models)

    def _within_reach(self, consumer: Consumer, model: str) -> bool:
        """Whether a model is in a region that the consumer may use."""
        access = consumer.access
        if access is ANYWHERE or (access.regions is None and access.data_zones is None):
            return True
        return any(access.allows(target.backend) for group in self._groups[model] for target in group.targets)

    def _prepare(self, groups: Sequence[Group]) -> None:
        """What the breakers have to know of a model's targets."""
        for i, group in enumerate(groups):
            for target, watched in group.orders[0]:
                configured = target.backend.tokens_per_minute.get(target.model)
                watched.configured = float(configured) if configured is not None else None
                if target.backend.kind == "provisioned" and i + 1 < len(groups):
                    # The more instances knock, the longer each may stay away: the deployment is full again at once.
                    watched.most_cool_down = lambda pool=group.pool: min(max(self._rotation.instances(pool), 1.0), 10.0)


def explained(notes: Sequence[str], attempts: Sequence[Attempt]) -> str:
    """The decisions on one line that a header can hold."""
    tries = [
        f"{attempt.role} {i}: {attempt.target.model} on {attempt.target.backend.name}, "
        f"{attempt.problem or attempt.status} after {attempt.milliseconds:.0f} ms"
        for i, attempt in enumerate(attempts, 1)
    ]
    line = "; ".join([*notes, *tries])
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[:_LONGEST_HEADER]


_EVERY_REASON = frozenset(Model().fallback_on)


def _seat(target: Target, breakers: Breakers) -> Candidate:
    return Candidate(target, breakers.watched(target))


def _group(pool: str, members: Sequence[Candidate]) -> Group:
    """The first of every place comes with the others behind it in each of their rotations: where it is left alone, its
    calls are spread over all the others that way, not poured over the next."""
    weights = [seat.target.backend.weight for seat in members]
    turns = smooth_order([weight // math.gcd(*weights) for weight in weights])
    rounds = [list(dict.fromkeys(turns[start:] + turns[:start])) for start in range(len(turns))]
    orders = [
        tuple(members[i] for i in (first, *others[k:], *others[:k]))
        for k in range(max(1, len(members) - 1))
        for first, *others in rounds
    ]
    return Group(pool, len(turns), tuple(orders))


def _out_of_reach() -> RegionNotAllowed:
    return RegionNotAllowed("This model is not in a region that this key may use.", param="model")
