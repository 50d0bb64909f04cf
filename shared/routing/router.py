"""Orders the targets of a call, by the configuration, the rotation, the breakers and the caller's preferences."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from shared.azure_openai.backend_requests import IMAGE_DEPLOYMENT, service_tier
from shared.config.document import Configuration, Model, Variant
from shared.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    NoBackendAvailable,
    PinNotAllowed,
    RateLimitExceeded,
    RegionNotAllowed,
    StateConflict,
)
from shared.lifecycle.notices import Notices
from shared.routing import _health, _prompt_cache, preferences, quota
from shared.routing._groups import Candidate, Group, group_without_model, groups_by_model
from shared.routing._health import HEALTHY
from shared.routing._prompt_cache import Share
from shared.routing.breakers import Breakers
from shared.routing.preferences import RoutingPreferences
from shared.routing.rotation import Rotation
from shared.types import ANYWHERE, UNBOUND, Attempt, Binding, Call, Consumer, Plan, Target

_MUCH_MORE = 2.0  # times the calls under way of the next in turn: a first one with more is passed over
_FEW = 2  # calls under way that say nothing about a backend
_MOST_AHEAD = 32  # turns that a backend may be ahead because of a prefix
_LONGEST_HEADER = 2000  # characters; some proxies take no more than 4 kB of headers
_PLAIN = Model()
_EVERY_REASON = frozenset(_PLAIN.fallback_on)

Allowed = Callable[[Target], bool]


class Router:
    """Orders the targets of a call. `now` gives seconds since 1970; `drained` returns the names of the backends that
    operators have taken out."""

    def __init__(
        self,
        configuration: Configuration,
        rotation: Rotation,
        breakers: Breakers,
        now: Callable[[], float] = time.time,
        drained: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._configuration = configuration
        self._now = now
        self._notices = Notices(configuration, now)
        self.drained = drained
        self._groups = groups_by_model(configuration, breakers)
        self._without_model = (group_without_model(configuration, breakers),)
        self._rotation = rotation
        self._breakers = breakers
        self._spins = 0
        self._ahead: dict[tuple[str, str], int] = {}  # turns that a pool's backend has had too early
        for groups in self._groups.values():
            self._configure_breakers(groups)

    def models(self, consumer: Consumer) -> list[str]:
        """The models that a consumer may use, in the order of the configuration."""
        now, served = self._now(), self._configuration.served
        names = dict.fromkeys([*self._groups, *self._configuration.switches])
        return [
            name
            for name in names
            if self._allowed(consumer, name)
            and (model := served(name, now)) in self._groups
            and self._within_reach(consumer, model)
        ]

    def shown(self, consumer: Consumer, name: str) -> str:
        """The configured model of a name, if the consumer may use it and its regions. Raises as `model`, and
        `RegionNotAllowed`."""
        if not self._within_reach(consumer, self.model(consumer, name)):
            raise _region_not_allowed()
        return self._configuration.canonical(name)

    def model(self, consumer: Consumer, name: str) -> str:
        """The configured model that serves a caller's name of it: its successor, from the day of a switch on. The
        consumer must be allowed to use the one that it names. Raises `ModelNotFound` and `ModelNotAllowed`."""
        named = self._configuration.canonical(name)
        model = self._configuration.served(named, self._now())
        if model not in self._groups:
            usable = ", ".join(self.models(consumer)) or "none"
            raise ModelNotFound(
                f"The model {name[:128]!r} does not exist here. This key may use: {usable}.", param="model"
            )
        if not self._allowed(consumer, named):
            allowed = ", ".join(self.models(consumer)) or "none"
            raise ModelNotAllowed(f"This key may not use the model {name!r}. It may use: {allowed}.", param="model")
        return model

    def unusable(self) -> list[str]:
        """The models without a usable backend."""
        now, health, drained = self._breakers.clock(), self._breakers.health, self.drained()
        return [
            model
            for model, groups in self._groups.items()
            if not any(
                health(target).usable_at(now) and target.backend.name not in drained
                for group in groups
                for target in group.targets
            )
        ]

    def plan(
        self,
        consumer: Consumer,
        call: Call,
        preferred: RoutingPreferences = preferences.NONE,
        binding: Binding = UNBOUND,
    ) -> Plan:
        """The targets of a call, never empty: the usable ones by priority and rotation, then those of the fallback
        models, then, as a last resort, those that are out of rotation at the moment. A `binding` limits a call to the
        backends that keep its objects, or prefers one of them. Drained backends serve only what is nowhere else.

        Raises `NoBackendAvailable` if all are drained, `RateLimitExceeded` with the shortest wait if all that may be
        tried is throttled, and the errors of `model` and `_restriction`."""
        if call.operation.model == "hidden" and consumer.models is not None:
            raise _model_hidden(call.operation.name)
        model = self.model(consumer, call.model) if call.model else ""
        named = self._configuration.canonical(call.model)
        about, free = self._about(model), binding is UNBOUND
        allowed = self._with_images(consumer, call, model, self._restriction(consumer, model, preferred, binding))
        if drained := self.drained():
            allowed = _in_service(drained, binding, allowed)
        prefix = _prompt_cache.prefix(call) if free and about.prompt_cache_affinity else None
        tokens = quota.estimate(call)
        chain, tier = (model, *self._fallbacks(consumer, model, preferred)), service_tier(call)
        usable, rest = self._order(chain, tokens, allowed, prefix, tier)
        if tier and (about.tier_fallback if preferred.tier_fallback is None else preferred.tier_fallback):
            standard, out = self._order(chain, tokens, allowed, prefix)
            usable, rest = usable + standard, rest + out
        if binding.first:
            usable.sort(key=lambda target: target.backend.name != binding.first)
        canary = self._drawn(about.canary, tokens, allowed, prefix, tier) if free else []
        targets = canary + usable
        if rest:
            targets += self._last_resort(rest, tokens, serving=bool(targets))
        if not targets:
            raise NoBackendAvailable("Every backend that may serve this call is drained: its operator took it out.")
        return Plan(
            model=model,
            targets=targets,
            fallback_on=frozenset(about.fallback_on) if preferred.fallbacks is None else _EVERY_REASON,
            seconds=preferred.seconds,
            hedge=about.hedge if preferred.hedge is None else preferred.hedge,
            canary=canary[0].model if canary else "",
            shadow=self._drawn(about.shadow, tokens, allowed, None, tier) if free else [],
            notes=self._notes(usable, rest, prefix, tokens) if preferred.explain and consumer.access.explain else None,
            named=named if named != model else "",
            announcement=self._notices.headers(named),
        )

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

    # --- the order ----------------------------------------------------------------------------------------------------

    def _order(
        self, chain: Sequence[str], tokens: float, allowed: Allowed | None, prefix: bytes | None, tier: str = ""
    ) -> tuple[list[Target], list[Target]]:
        """The targets of these models that may serve, best first, and those that are out of rotation at the moment. A
        model's own come before the next model's, even if their quota would likely reject this call: the caller did not
        ask for another model."""
        breakers, now = self._breakers, self._breakers.clock()
        usable: list[Target] = []
        rest: list[Target] = []
        for model in chain:
            good: list[Target] = []
            short: list[Target] = []
            for group in self._groups_of(model):
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

    def _of_tier(self, target: Target, tier: str) -> Candidate:
        target = Target(target.backend, target.model, target.deployment, tier)
        return Candidate(target, self._breakers.watched(target))

    def _in_turn(self, group: Group, *, serving: bool) -> Sequence[Candidate]:
        """The group's targets in the rotation's order. `serving`: other targets come first, so this takes no turn."""
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

    def _last_resort(self, rest: list[Target], tokens: float, *, serving: bool) -> list[Target]:
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

    # --- restrictions and additions ---------------------------------------------------------------------

    def _restriction(
        self, consumer: Consumer, model: str, preferred: RoutingPreferences, binding: Binding
    ) -> Allowed | None:
        """The targets that a call may go to; None: all. Raises `RegionNotAllowed`, `PinNotAllowed`, `StateConflict` if
        the backends that it is bound to do not serve the model, and `InvalidRequest` if the chosen backend does not."""
        access, pin, only = consumer.access, preferred.backend, binding.only
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
            raise _region_not_allowed()
        return lambda target: (
            (only is None or target.backend.name in only)
            and pin in ("", target.backend.name)
            and access.allows(target.backend)
        )

    def _with_images(self, consumer: Consumer, call: Call, main: str, allowed: Allowed | None) -> Allowed | None:
        """The targets next to the model that the image tool of a call uses. Raises the errors of `model`."""
        if (name := call.headers.get(IMAGE_DEPLOYMENT)) is None:
            return allowed
        model = self.model(consumer, name)
        if model != name:
            raise InvalidRequest(
                f"{IMAGE_DEPLOYMENT}: expected the model's own name {model!r}.", param=IMAGE_DEPLOYMENT
            )
        return lambda target: model in target.backend.models and (allowed is None or allowed(target))

    def _fallbacks(self, consumer: Consumer, model: str, preferred: RoutingPreferences) -> list[str]:
        """The models to fall back on. Those that a caller names must exist, and it must be allowed to use them."""
        if preferred.fallbacks is not None:
            named = dict.fromkeys(self.model(consumer, name) for name in preferred.fallbacks)
            return [name for name in named if name != model]
        return [name for name in self._about(model).fallbacks if self._allowed(consumer, name)]

    def _drawn(
        self, variant: Variant | None, tokens: float, allowed: Allowed | None, prefix: bytes | None, tier: str
    ) -> list[Target]:
        """The target of a canary or shadow for its share of the calls, else nothing. The operator has chosen its model,
        so a key needs no permission for it; the key's regions apply."""
        if variant is None or self._breakers.rng.random() >= variant.share:
            return []
        usable, _ = self._order((variant.model,), tokens, allowed, prefix, tier)
        return usable[:1]

    def _notes(self, usable: list[Target], rest: list[Target], prefix: bytes | None, tokens: float) -> list[str]:
        """The reasons for this order of the targets, in a few words each."""
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

    def _about(self, model: str) -> Model:
        return self._configuration.models.get(model, _PLAIN)

    def _groups_of(self, model: str) -> tuple[Group, ...]:
        return self._groups[model] if model else self._without_model

    def _allowed(self, consumer: Consumer, model: str) -> bool:
        """True if the consumer's policy allows the model, by its name or an alias."""
        models = consumer.models
        return models is None or model in models or not models.isdisjoint(self._about(model).aliases)

    def _within_reach(self, consumer: Consumer, model: str) -> bool:
        """True if a model is in a region that the consumer may use."""
        access = consumer.access
        if access is ANYWHERE or (access.regions is None and access.data_zones is None):
            return True
        return any(access.allows(target.backend) for group in self._groups[model] for target in group.targets)

    def _configure_breakers(self, groups: Sequence[Group]) -> None:
        for i, group in enumerate(groups):
            for target in group.targets:
                configured = target.backend.tokens_per_minute.get(target.model)
                longest_cool_down = None
                if target.backend.kind == "provisioned" and i + 1 < len(groups):
                    # The more instances try it again, the longer each may wait: it is full again at once.
                    longest_cool_down = partial(self._longest_cool_down, group.pool)
                self._breakers.configure(target, configured, longest_cool_down)

    def _longest_cool_down(self, pool: str) -> float:
        return min(max(self._rotation.instances(pool), 1.0), 10.0)


def explained(notes: Sequence[str], attempts: Sequence[Attempt]) -> str:
    """The decisions and tries on one line, as the value of a header."""
    tries = [
        f"{attempt.role} {i}: {attempt.target.model} on {attempt.target.backend.name}, "
        f"{attempt.problem or attempt.status} after {attempt.milliseconds:.0f} ms"
        for i, attempt in enumerate(attempts, 1)
    ]
    line = "; ".join([*notes, *tries])
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[:_LONGEST_HEADER]


def _in_service(drained: frozenset[str], binding: Binding, allowed: Allowed | None) -> Allowed | None:
    """The targets that are not drained; all of them for a call whose objects are on drained backends alone."""
    if binding.only is not None and binding.only <= drained:
        return allowed
    return lambda target: target.backend.name not in drained and (allowed is None or allowed(target))


def _model_hidden(operation: str) -> ModelNotAllowed:
    return ModelNotAllowed(
        f"This key may use certain models only, and the gateway cannot see which ones {operation} would use. Ask the "
        "gateway's operator for a key without that restriction."
    )


def _region_not_allowed() -> RegionNotAllowed:
    return RegionNotAllowed("This model is not in a region that this key may use.", param="model")
