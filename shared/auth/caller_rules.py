"""Grants of the configuration to callers with a token: those of the first rule that matches. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from shared.auth._jwt import Identity
from shared.config.callers import CallerRule
from shared.config.limits import merged
from shared.types import Consumer


def rule_for(identity: Identity, rules: Iterable[CallerRule]) -> CallerRule | None:
    """The first rule that matches, or None."""
    return next((rule for rule in rules if _matches(rule, identity)), None)


def granted(identity: Identity, rule: CallerRule, stored: Consumer | None) -> Consumer:
    """The consumer of a caller. `stored`: its row, which has only what operators changed; None: no row yet.

    A restriction of the rule is replaced by one of the row, and never lifted by its absence.
    """
    own = stored or Consumer(identity.consumer_id, identity.name)
    regions, zones = own.access.regions, own.access.data_zones
    return msgspec.structs.replace(
        own,
        models=own.models if own.models is not None else _set(rule.models),
        limits=merged(rule.limits, own.limits),
        products=own.products or ((rule.product,) if rule.product else ()),
        team=own.team or rule.team or "",
        access=msgspec.structs.replace(
            own.access,
            regions=regions if regions is not None else _set(rule.regions),
            data_zones=zones if zones is not None else _set(rule.data_zones),
        ),
    )


def teams_owned(identity: Identity, owners: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """The teams that a caller owns. `owners`: team -> object ids of users, service principals and groups."""
    own = {identity.object, *identity.groups}
    return frozenset(team for team, ids in owners.items() if not own.isdisjoint(id.lower() for id in ids))


def _matches(rule: CallerRule, identity: Identity) -> bool:
    return (
        (rule.app_role is None or rule.app_role in identity.roles)
        and (rule.group is None or rule.group.lower() in identity.groups)
        and (rule.app is None or rule.app.lower() == identity.app)
        and (rule.object is None or rule.object.lower() == identity.object)
    )


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
