"""Which targets a call may go to, in order: pure decisions over the configuration, the rotation and the breakers."""

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec

from shared import circuit_breaker
from shared.circuit_breaker import Breakers
from shared.config import Configuration
from shared.errors import ModelNotAllowed, ModelNotFound, RateLimitExceeded, StateConflict
from shared.rotation import Rotation, smooth_order
from shared.types import UNBOUND, Binding, Call, Consumer, Target


class Group(msgspec.Struct, frozen=True):
    """Targets of one model and one priority. `orders`: for every place of the rotation's round, each target once."""

    pool: str
    orders: tuple[tuple[Target, ...], ...]


def groups_by_model(configuration: Configuration) -> dict[str, tuple[Group, ...]]:
    """Every model's groups, the lowest priority number first."""
    table: dict[str, tuple[Group, ...]] = {}
    for model in configuration.model_names():
        backends = sorted((b for b in configuration.backends if model in b.models), key=lambda b: b.priority)
        table[model] = tuple(
            Group(f"{model}:{priority}", _orders([Target(b, model, b.models[model]) for b in members]))
            for priority, members in itertools.groupby(backends, key=lambda b: b.priority)
        )
    return table


class Router:
    """Orders the targets of a call."""

    def __init__(self, configuration: Configuration, rotation: Rotation, breakers: Breakers) -> None:
        self._groups = groups_by_model(configuration)
        self._fallbacks = {name: tuple(about.fallbacks) for name, about in configuration.models.items()}
        self._aliases = {alias: name for name, about in configuration.models.items() for alias in about.aliases}
        by_priority = sorted(configuration.backends, key=lambda backend: backend.priority)
        self._without_model = [Target(backend, "", "") for backend in by_priority]
        self._rotation = rotation
        self._breakers = breakers

    def models(self, consumer: Consumer) -> list[str]:
        """The models that a consumer may use, in the order of the configuration."""
        return [model for model in self._groups if self._allowed(consumer, model)]

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
            if not any(health(target).usable_at(now) for group in groups for target in group.orders[0])
        ]

    def candidates(self, consumer: Consumer, call: Call, binding: Binding = UNBOUND) -> list[Target]:
        """The targets to be tried, best first, never empty: usable ones by priority and rotation, then the fallback
        models' ones; behind them, for a call that would fail otherwise, those that are left alone at the moment.

        `binding` is for calls to whom it matters where others went (`affinity.py`): only the backends that it allows,
        and the one that it prefers before all others, when that is usable. A call for no model (of files, threads …)
        goes to backends as they are; its targets have no deployment.

        Raises `RateLimitExceeded` with the shortest wait when all that may be tried is throttled, and `StateConflict`
        when none of the allowed backends serves the model.
        """
        if call.operation.model == "hidden" and consumer.models is not None:
            raise ModelNotAllowed(
                f"This key may use certain models only, and the gateway cannot see which ones {call.operation.name} "
                "would use. Ask the gateway's operator for a key without that restriction."
            )
        if call.model:
            model = self.model(consumer, call.model)
            chain = [model, *(name for name in self._fallbacks.get(model, ()) if self._allowed(consumer, name))]
            targets = [target for name in chain for group in self._groups[name] for target in self._in_turn(group)]
        else:
            targets = self._without_model
        if binding is not UNBOUND:
            targets = bound(targets, binding)
        now, health = self._breakers.clock(), self._breakers.health
        usable = [target for target in targets if health(target).usable_at(now)]
        if len(usable) == len(targets):
            return usable
        rest = [target for target in targets if not health(target).usable_at(now)]
        throttled = [target for target in rest if health(target).ejected_until <= now]
        ready = [target for target in throttled if not health(target).cooling_at(now)]
        if throttled and not usable and not ready:
            raise self.throttled(throttled)
        # An ejected target comes last: it would most likely fail, but a call with nobody left has nothing to lose.
        ejected = [target for target in rest if target not in throttled]
        waiting = [target for target in throttled if target not in ready]
        return usable + ready + waiting + sorted(ejected, key=lambda target: health(target).ejected_until)

    def throttled(self, targets: Iterable[Target], told: Sequence[float] = ()) -> RateLimitExceeded:
        """What a caller is told when the throttled among these targets are all that is left. `told`: the waits that
        backends have told for this very call."""
        now = self._breakers.clock()
        waits = [wait for target in targets if (wait := self._breakers.health(target).retry_at - now) > 0]
        wait = min(waits, default=min(told, default=circuit_breaker.DEFAULT_COOL_DOWN))
        return RateLimitExceeded(
            f"Every backend of this model is throttled by Azure OpenAI. Retry after {wait:.1f} seconds.", wait
        )

    def _in_turn(self, group: Group) -> Iterable[Target]:
        length = len(group.orders)
        return group.orders[self._rotation.ticket(group.pool, length) % length]

    def _allowed(self, consumer: Consumer, model: str) -> bool:
        """Whether a policy names the model, or an alias of it."""
        return consumer.models is None or any(self._aliases.get(name, name) == model for name in consumer.models)


def bound(targets: Sequence[Target], binding: Binding) -> list[Target]:
    """What is left of the targets for a call with this binding, the preferred one first. Raises `StateConflict`."""
    left = [target for target in targets if binding.only is None or target.backend.name in binding.only]
    if not left:
        raise StateConflict(f"{binding.reason} That backend does not serve the model of this call.", param="model")
    return sorted(left, key=lambda target: target.backend.name != binding.first)


def _orders(members: Sequence[Target]) -> tuple[tuple[Target, ...], ...]:
    weights = [target.backend.weight for target in members]
    turns = smooth_order([weight // math.gcd(*weights) for weight in weights])
    rounds = (dict.fromkeys(turns[start:] + turns[:start]) for start in range(len(turns)))
    return tuple(tuple(members[i] for i in order) for order in rounds)
