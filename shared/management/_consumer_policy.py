"""The consumers that operators may make: the rules for changing their fields. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from shared.auth.client_address import networks
from shared.auth.consumer_rows import Record, is_identity
from shared.auth.operators import ADMINS, Operator
from shared.auth.products import is_open_to
from shared.config.document import Configuration
from shared.config.limits import Limits, Period, merged, time_zone_problem
from shared.errors import InvalidRequest, RoleRequired
from shared.management._consumer_fields import Fields, view, whole
from shared.management.routes import merged_patch, rfc3339, time_of
from shared.types import Access, Consumer

_KINDS = {"team": "teams", "model_limits": "models"}  # where the field has another name
_MADE_APART = ("team", "products")


class Rules(msgspec.Struct, frozen=True):
    """The rules for one operator at one time. `configuration` is called if a change refers to it."""

    configuration: Callable[[], Configuration]
    operator: Operator
    now: float

    def apply(self, fields: Fields, consumer_id: str, old: Record | None) -> Record:
        """The record that these fields make of the old one. Raises `InvalidRequest` and `RoleRequired`."""
        before = old.consumer if old else Consumer(consumer_id, "")
        name = fields.name.strip()
        if not name or not name.isprintable():
            raise InvalidRequest("name: expected 1 to 128 printable characters.", param="name")
        consumer = Consumer(
            id=consumer_id,
            name=name,
            models=self._models(fields, before),
            limits=_sound(fields.limits, "limits"),
            team=self._team(fields, before),
            products=self._products(fields, before),
            model_limits=self._model_limits(fields, before),
            addresses=_addresses(fields),
            access=self._access(fields, before.access),
        )
        if "admin" not in self.operator.roles:
            self._within_team(consumer, before)
        expires = self._expires(fields, old.expires if old else 0.0)
        revoked = ((old.revoked if old else 0.0) or self.now) if fields.state == "revoked" else 0.0
        if old is None:
            return Record(consumer, {}, self.now, expires, revoked)
        return old.changed(consumer, expires, revoked)

    def patch(self, old: Record, patch: Mapping[str, Any]) -> Record:
        """The record after a JSON merge patch (RFC 7386), whose models may be aliases. Raises as `apply`."""
        consumer, limits = old.consumer, patch.get("model_limits")
        if isinstance(limits, Mapping) and (aliases := limits.keys() - consumer.model_limits.keys()):
            canonical = self.configuration().canonical
            own = {canonical(model) if model in aliases else model: value for model, value in limits.items()}
            patch = {**patch, "model_limits": own}
        fields = whole(merged_patch(msgspec.to_builtins(view(old, self.now)), patch), consumer.id)
        return self.apply(fields, consumer.id, old)

    def _models(self, fields: Fields, before: Consumer) -> frozenset[str] | None:
        if fields.models is None:
            return None
        models = frozenset(fields.models)
        self._known("models", models - (before.models or frozenset()), lambda: self.configuration().callable_names)
        return models

    def _model_limits(self, fields: Fields, before: Consumer) -> dict[str, Limits]:
        new = fields.model_limits.keys() - before.model_limits.keys()
        self._known("model_limits", new, self._limited_names)
        aliases = self.configuration().aliases if new else {}
        return {
            aliases.get(model, model) if model in new else model: _sound(limits, f"model_limits.{model}")
            for model, limits in fields.model_limits.items()
        }

    def _access(self, fields: Fields, before: Access) -> Access:
        return Access(
            regions=self._places("regions", fields.regions, before.regions, lambda: self.configuration().regions),
            data_zones=self._places(
                "data_zones", fields.data_zones, before.data_zones, lambda: self.configuration().data_zones
            ),
            pin=fields.pin,
            explain=fields.explain,
            whole_account=fields.whole_account,
        )

    def _places(
        self,
        field: str,
        names: list[str] | None,
        before: frozenset[str] | None,
        configured: Callable[[], Iterable[str]],
    ) -> frozenset[str] | None:
        if names is None:
            return None
        places = frozenset(names)
        self._known(field, places - (before or frozenset()), configured)
        return places

    def _team(self, fields: Fields, before: Consumer) -> str:
        if fields.team and fields.team != before.team:
            self._known("team", {fields.team}, lambda: self.configuration().team_limits)
        return fields.team

    def _products(self, fields: Fields, before: Consumer) -> tuple[str, ...]:
        """The subscriptions. New ones must be open to the consumer's team."""

        def open_ones() -> list[str]:
            return [name for name, one in self.configuration().products.items() if is_open_to(one, fields.team)]

        self._known("products", set(fields.products) - set(before.products), open_ones)
        return tuple(dict.fromkeys(fields.products))

    def _expires(self, fields: Fields, before: float) -> float:
        if fields.expires is None or fields.expires == rfc3339(before):
            return before if fields.expires else 0.0
        expires = time_of({"expires": fields.expires}, "expires", 0.0)
        if expires <= self.now:
            message = f"expires: expected a time in the future, got {fields.expires[:64]!r}; `state` revokes at once."
            raise InvalidRequest(message, param="expires")
        return expires

    def _limited_names(self) -> Iterable[str]:
        """The names under which a limit applies: a call that a successor serves counts for that."""
        return {*self.configuration().model_names(), *self.configuration().aliases}

    def _known(self, field: str, new: Iterable[str], configured: Callable[[], Iterable[str]]) -> None:
        """Raise `InvalidRequest` for a name that the configuration does not have: a typo would silently allow
        nothing."""
        if not (new := set(new)):
            return
        known = set(configured())
        if unknown := new - known:
            message = f"{field}: got {', '.join(sorted(unknown))[:300]}{_instead(field, known)}."
            raise InvalidRequest(message[:2000], param=field)

    def _within_team(self, consumer: Consumer, before: Consumer) -> None:
        """Raise `RoleRequired` for what the owner of a team may not do."""
        self.operator.require_team(consumer.team)
        if is_identity(consumer.id) and not before.name:  # the person may be of any team
            self._refuse("id", " of an identity of Entra ID")
        for permission in ("pin", "explain", "whole_account"):
            if getattr(consumer.access, permission) and not getattr(before.access, permission):
                self._refuse(permission)
        configuration = self.configuration()
        defaults = configuration.limits.defaults
        team = merged(defaults, configuration.team_limits.get(consumer.team, Limits()))
        # A key's limits lie over the defaults: its own period changes what their amount comes to.
        own_limits = {f"model_limits.{m}": own for m, own in consumer.model_limits.items()}
        limits_by_place = {"limits": merged(defaults, consumer.limits)} | own_limits
        had_limits = {f"model_limits.{m}": own for m, own in before.model_limits.items()}
        had = {"limits": merged(defaults, before.limits)} | had_limits
        for place, limits in limits_by_place.items():
            if field := _above(limits, team, had.get(place, Limits())):
                self._refuse(f"{place}.{field}", f" above that of the team {consumer.team!r}, or else of the defaults")

    def _refuse(self, place: str, above: str = "") -> None:
        try:
            self.operator.require(ADMINS)
        except RoleRequired as error:
            raise RoleRequired(f"{place}{above}: {error.message}", param=place) from None


_QUOTAS: dict[str, tuple[str, Period]] = {
    "token_quota": ("token_quota_period", "month"),
    "request_quota": ("request_quota_period", "day"),
    "budget_usd": ("budget_period", "month"),
}
# Settings that are not limits, each with its default: how much further they let calls go.
_LOOSER: dict[str, tuple[Any, dict[Any, int]]] = {
    "soft": (False, {True: 1}),
    "quota_counts": ("all", {"success": 1}),
    "estimate": ("learned", {"learned": 1, "none": 2}),
}
_HOURS = {"hour": 1, "day": 24, "week": 168, "month": 744}


def _above(own: Limits, team: Limits, before: Limits) -> str:
    """The first changed limit or setting that is above those for a team, or "". 0 means no limit: above any."""
    if team != Limits():
        for name, (usual, looser) in _LOOSER.items():
            now, *allowed = (looser.get(getattr(limits, name) or usual, 0) for limits in (own, before, team))
            if now > max(allowed):
                return name
    for name, (field, default) in _QUOTAS.items():
        # All of a period's amount may be spent at once, so a longer one lets more pass, whatever the pace.
        set_before = before if getattr(before, name) is not None else team
        hours, *others = (_hours(getattr(limits, field) or default) for limits in (own, set_before, team))
        if getattr(team, name) and getattr(own, name) is not None and hours > max(others):
            return field
    for name in ("requests_per_minute", "tokens_per_minute", "max_concurrent", *_QUOTAS):
        mine, had, most = (_pace(limits, name) for limits in (own, before, team))
        if mine is not None and most and mine != had and (not mine or mine > most):
            return name
    return ""


def _pace(limits: Limits, name: str) -> float | None:
    """A limit, a quota by the hour. Periods differ, and so do their quotas."""
    value: float | None = getattr(limits, name)
    if value is None or name not in _QUOTAS:
        return value
    field, default = _QUOTAS[name]
    return value / _hours(getattr(limits, field) or default)


def _hours(period: Period) -> float:
    return period / 3600 if isinstance(period, int) else _HOURS[period]


def _instead(field: str, known: Iterable[str]) -> str:
    """The names that an unknown one could have been, and how to make it one of those."""
    if names := ", ".join(sorted(known)):
        return f"; expected some of {names}"
    kind = _KINDS.get(field, field.replace("_", " "))
    make = f". Create the {kind[:-1]} first, under {kind.capitalize()} or by PUT /gateway/{kind}/NAME"
    return f", but no {kind} are configured{make if field in _MADE_APART else ''}"


def _sound(limits: Limits, place: str) -> Limits:
    if problem := time_zone_problem(limits):
        raise InvalidRequest(f"{place}.time_zone: {problem}.", param=f"{place}.time_zone")
    return limits


def _addresses(fields: Fields) -> tuple[str, ...]:
    try:
        return networks(fields.addresses)
    except ValueError as error:
        message = f"addresses: expected networks such as 10.0.0.0/8 or 2001:db8::/32: {error}."
        raise InvalidRequest(message[:300], param="addresses") from None
