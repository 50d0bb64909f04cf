"""Plans a call: the targets that it may go to, best first, by the configuration and the caller's preferences."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial

from shared.azure_openai import apis
from shared.azure_openai.backend_requests import service_tier
from shared.config.document import Api, Configuration, Format, Model, Variant
from shared.errors import GatewayError, ModelNotAllowed, NoBackendAvailable
from shared.lifecycle import retirement
from shared.lifecycle.notices import Notices
from shared.routing import _prompt_cache, explanation, preferences, quota
from shared.routing._groups import Group, group_without_model, groups_by_model
from shared.routing._models import Allowed, Models
from shared.routing._ordering import Ordering
from shared.routing.breakers import Breakers
from shared.routing.preferences import RoutingPreferences
from shared.routing.rotation import Rotation
from shared.types import UNBOUND, Binding, Call, Consumer, Plan, Target

_AZURE_ALONE: frozenset[Api] = frozenset(("azure",))
_EVERY_REASON = frozenset(Model().fallback_on)


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
        self._notices = Notices(configuration, now)
        self.drained = drained
        self._groups = groups_by_model(configuration, breakers)
        self._apis = _apis_by_format(configuration)
        self._without_model = (group_without_model(configuration, breakers),)
        self._rotation = rotation
        self._breakers = breakers
        self._models = Models(configuration, self._groups_of, now)
        self._ordering = Ordering(rotation, breakers)
        self.models, self.model = self._models.usable_by, self._models.model
        self.visible_model = self._models.visible_model
        self.check_api = self._models.check_api
        self.throttled = self._ordering.throttled
        self.end = partial(retirement.of_configured, configuration)
        for groups in self._groups.values():
            self._configure_breakers(groups)
            self._share_quotas(groups)

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
        tried is throttled, and the errors of `model` and of `Models.restriction`."""
        model, named = self._model_of(consumer, call), self._configuration.canonical(call.model)
        about, free = self._models.about(model), binding is UNBOUND
        refusals = self._refusals(call)
        permitted = self._allowed(consumer, call, model, preferred, binding)
        allowed = _of_other_apis(permitted, refusals.keys()) if refusals else permitted
        prefix = _prompt_cache.prefix(call) if free and about.prompt_cache_affinity else None
        tokens, tier = quota.estimate(call), service_tier(call)
        standard_too = about.tier_fallback if preferred.tier_fallback is None else preferred.tier_fallback
        chain = (model, *self._models.fallbacks(consumer, model, preferred))
        usable, rest = self._order(chain, tokens, allowed, prefix, (tier, "") if tier and standard_too else (tier,))
        if binding.first:
            usable.sort(key=lambda target: target.backend.name != binding.first)
        canary = self._drawn(about.canary, tokens, allowed, prefix, tier) if free else []
        targets = canary + usable
        if rest:
            targets += self._ordering.last_resort(rest, tokens, serving=bool(targets))
        if not targets:
            raise self._nothing_left(chain, permitted, refusals)
        explains = preferred.explain and consumer.access.explain
        notes = explanation.notes(usable, rest, prefix, tokens, self._breakers) if explains else None
        return Plan(
            model=model,
            targets=targets,
            fallback_on=frozenset(about.fallback_on) if preferred.fallbacks is None else _EVERY_REASON,
            seconds=preferred.seconds,
            hedge=about.hedge if preferred.hedge is None else preferred.hedge,
            canary=canary[0].model if canary else "",
            shadow=self._drawn(about.shadow, tokens, allowed, None, tier) if free else [],
            notes=notes,
            named=named if named != model else "",
            announcement=self._notices.headers(named),
        )

    def _model_of(self, consumer: Consumer, call: Call) -> str:
        """The configured model of a call; "": it names none. Raises the errors of `model` and of `check_api`."""
        if call.operation.model == "hidden" and consumer.models is not None:
            raise ModelNotAllowed(
                "This key may use certain models only, and the gateway cannot see which ones "
                f"{call.operation.name} would use. Ask the gateway's operator for a key without that restriction."
            )
        if not call.model:
            return ""
        model = self.model(consumer, call.model)
        self.check_api(model, call)
        return model

    def _allowed(
        self, consumer: Consumer, call: Call, model: str, preferred: RoutingPreferences, binding: Binding
    ) -> Allowed | None:
        """The targets that a call may go to; None: all. Drained ones only if its objects are nowhere else."""
        allowed = self._models.restriction(consumer, call, model, preferred, binding)
        allowed = self._models.with_images(consumer, call, allowed)
        drained = self.drained()
        if not drained or (binding.only is not None and binding.only <= drained):
            return allowed
        return lambda target: target.backend.name not in drained and (allowed is None or allowed(target))

    def _refusals(self, call: Call) -> dict[Api, GatewayError]:
        """The configured APIs that cannot serve a call, each with the error that says why."""
        configured = self._apis[call.operation.format if call.model else None]
        if configured == _AZURE_ALONE and "azure" in call.operation.apis:
            return {}
        return {api: refusal for api in configured if (refusal := apis.refusal(call, api)) is not None}

    def _nothing_left(
        self, chain: Iterable[str], permitted: Allowed | None, refusals: Mapping[Api, GatewayError]
    ) -> GatewayError:
        """The error for a call without a target: all that are permitted speak an API that cannot serve it, or none is
        left."""
        targets = (target for model in chain for group in self._groups_of(model) for target in group.targets)
        if refusals and any(permitted is None or permitted(target) for target in targets):
            return next(iter(refusals.values()))
        return NoBackendAvailable("Every backend for this call is drained.")

    def _order(
        self, chain: Iterable[str], tokens: float, allowed: Allowed | None, prefix: bytes | None, tiers: Iterable[str]
    ) -> tuple[list[Target], list[Target]]:
        """The targets of these models, all in one tier before the next, and those that are out of rotation."""
        usable: list[Target] = []
        rest: list[Target] = []
        groups = [self._groups_of(model) for model in chain]
        for tier in tiers:
            serving, out = self._ordering.best(groups, tokens, allowed, prefix, tier)
            usable += serving
            rest += out
        return usable, rest

    def _drawn(
        self, variant: Variant | None, tokens: float, allowed: Allowed | None, prefix: bytes | None, tier: str
    ) -> list[Target]:
        """The target of a canary or shadow for its share of the calls, else nothing. The operator has chosen its model,
        so a key needs no permission for it; the key's regions apply."""
        if variant is None or self._breakers.rng.random() >= variant.share:
            return []
        usable, _ = self._order((variant.model,), tokens, allowed, prefix, (tier,))
        return usable[:1]

    def _configure_breakers(self, groups: Sequence[Group]) -> None:
        for i, group in enumerate(groups):
            for target in group.targets:
                configured = target.backend.tokens_per_minute.get(target.model)
                longest_cool_down = None
                if target.backend.provisioned and i + 1 < len(groups):
                    # The more instances try it again, the longer each may wait: it is full again at once.
                    longest_cool_down = partial(self._longest_cool_down, group.pool)
                self._breakers.configure(target, configured, longest_cool_down)

    def _share_quotas(self, groups: Sequence[Group]) -> None:
        by_quota: dict[str, list[Target]] = {}
        for target in (target for group in groups for target in group.targets):
            by_quota.setdefault(target.backend.quota_group, []).append(target)
        for name, targets in by_quota.items():
            for some in (targets,) if name else ([target] for target in targets):
                self._breakers.share(some)

    def _groups_of(self, model: str) -> tuple[Group, ...]:
        return self._groups[model] if model else self._without_model

    def _longest_cool_down(self, pool: str) -> float:
        return min(max(self._rotation.instances(pool), 1.0), 10.0)


def _apis_by_format(configuration: Configuration) -> dict[Format | None, frozenset[Api]]:
    """The APIs of the backends that serve a model of each format; None: of all backends."""
    served = [(model in configuration.anthropic, one.api) for one in configuration.backends for model in one.models]
    return {
        "openai": frozenset(api for claude, api in served if not claude),
        "anthropic": frozenset(api for claude, api in served if claude),
        None: frozenset(api for _, api in served),
    }


def _of_other_apis(allowed: Allowed | None, refusing: Set[Api]) -> Allowed:
    """The targets of APIs that do not refuse the call, among those that it may go to."""
    return lambda target: target.backend.api not in refusing and (allowed is None or allowed(target))
