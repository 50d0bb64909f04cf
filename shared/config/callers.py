"""Schema of the callers: products, teams, the users behind keys, and who may call with tokens of Entra ID."""

import msgspec

from shared.config.limits import Limits


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The models and places that calls may use, within their consumer's own rights; None: no restriction."""

    models: frozenset[str] | None = None
    regions: frozenset[str] | None = None
    data_zones: frozenset[str] | None = None
    limits: Limits = Limits()


class Product(Bounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bundle that consumers subscribe to, with the bounds of its calls. `limits`: of each subscriber;
    `shared_limits`: of all subscribers together. `teams`: only their consumers may subscribe; None: all consumers."""

    shared_limits: Limits = Limits()
    teams: frozenset[str] | None = None


class Team(Bounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A team, with the bounds of its keys' calls. `limits`: shared by its keys. `owners`: object ids of the people, or
    of groups of people, who may manage its consumers, within all that."""

    owners: frozenset[str] = frozenset()


class EndUsers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The users behind the keys, as their applications name them. `header`: names the user, before the body's
    `safety_identifier` and `user`; None: the body alone. `plain`: usage shows their names as they are, not hashed."""

    header: str | None = None
    plain: bool = False


class CallerRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Grants to callers with a token of Entra ID. `app_role`, `group` (object id), `app` (client id) and `object`
    (object id of the user or service principal) select them; of several, all must match. None: as for a key without
    it."""

    app_role: str | None = None
    group: str | None = None
    app: str | None = None
    object: str | None = None
    product: str | None = None
    team: str | None = None
    limits: Limits = Limits()
    models: list[str] | None = None
    regions: list[str] | None = None
    data_zones: list[str] | None = None


class EntraSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Access with tokens of Entra ID. `audiences`: accepted values of `aud`. The first rule of `callers` that matches a
    caller applies; a caller without one may not call. `page_client_id`: the application by which people sign in to the
    page; None: nobody signs in there by Entra ID."""

    tenants: list[str]
    audiences: list[str]
    callers: list[CallerRule] = []
    authority: str = "https://login.microsoftonline.com"
    page_client_id: str | None = None
