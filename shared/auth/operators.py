"""The people and programs that manage the gateway, and their roles."""

import hmac
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from shared.auth._jwt import Identity, looks_like_token
from shared.auth.caller_rules import teams_owned
from shared.auth.entra import EntraTokens
from shared.errors import InvalidApiKey, RoleRequired

Role = Literal["admin", "reader", "team_owner"]

ADMINS: frozenset[Role] = frozenset(("admin",))
READERS: frozenset[Role] = frozenset(("admin", "reader"))
OWNERS: frozenset[Role] = frozenset(("admin", "team_owner"))
EVERYONE: frozenset[Role] = frozenset(("admin", "reader", "team_owner"))

MANAGEMENT_KEY = "management-key"  # the name of an operator who uses it
_APP_ROLES: dict[Role, str] = {
    "admin": "Gateway.Admin",
    "reader": "Gateway.Reader",
    "team_owner": "Gateway.TeamOwner",
}
_NO_OWNERS: Mapping[str, Iterable[str]] = {}


class Operator(msgspec.Struct, frozen=True):
    """An operator. `name` identifies it in the audit trail. `teams`: those that it owns; they count for a
    `team_owner` who has no other role."""

    name: str
    roles: frozenset[Role]
    teams: frozenset[str] = frozenset()

    def require(self, roles: frozenset[Role]) -> None:
        """Raise `RoleRequired` (403) unless the operator has one of these roles."""
        if not self.roles & roles:
            raise RoleRequired(f"{self.name} lacks the app role for this: {_named(roles)} is required.")

    def sees(self, team: str) -> bool:
        """True if it may read what belongs to a team."""
        return bool(self.roles & READERS) or team in self.teams

    def manages(self, team: str) -> bool:
        """True if it may change what belongs to a team."""
        return "admin" in self.roles or ("team_owner" in self.roles and team in self.teams)

    def require_team(self, team: str) -> None:
        """Raise `RoleRequired` (403) unless the operator may change what belongs to a team."""
        if not self.manages(team):
            own = ", ".join(sorted(self.teams)) or "none"
            message = f"team: {self.name} may change these teams only: {own}. Others need {_APP_ROLES['admin']}."
            raise RoleRequired(message)


class Operators:
    """Recognises operators. `key`: the management key; None: nobody has one. `tokens` None: no token of Entra ID is
    accepted. `owners`: team -> object ids of its owners and their groups."""

    def __init__(
        self, key: str | None, tokens: EntraTokens | None = None, owners: Mapping[str, Iterable[str]] = _NO_OWNERS
    ) -> None:
        self._key = key
        self._tokens = tokens
        self._owners = owners

    async def identify(self, headers: Mapping[str, str]) -> Operator:
        """The operator who sent a request. Raises `InvalidApiKey` (401), `RoleRequired` (403) for a caller without
        an operator's role, and `IdentityUnavailable` (503)."""
        if has_key(headers, self._key):
            return Operator(MANAGEMENT_KEY, frozenset(("admin",)))
        token = _bearer(headers)
        if self._tokens is not None and looks_like_token(token):
            return operator_of(await self._tokens.identify(token), self._owners)
        raise InvalidApiKey(
            "The management key is missing or wrong: send it as Authorization: Bearer KEY."
            if self._tokens is None
            else "Send the management key, or a token of Entra ID with the app role "
            f"{_named(EVERYONE)}, as Authorization: Bearer KEY or TOKEN."
        )


def operator_of(identity: Identity, owners: Mapping[str, Iterable[str]]) -> Operator:
    """The operator with this identity. Raises `RoleRequired` if it has no role of an operator."""
    name = f"{identity.name} ({identity.object})"
    roles = frozenset(role for role, app_role in _APP_ROLES.items() if app_role in identity.roles)
    if not roles:
        raise RoleRequired(f"{name} has no app role of this gateway: {_named(EVERYONE)} is required.")
    return Operator(name, roles, teams_owned(identity, owners))


def _named(roles: frozenset[Role]) -> str:
    return " or ".join(sorted(_APP_ROLES[role] for role in roles))


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def has_key(headers: Mapping[str, str], key: str | None) -> bool:
    """True if the request has the management key."""
    scheme = headers.get("authorization", "").partition(" ")[0]
    candidate = _bearer(headers) if scheme.lower() == "bearer" else headers.get("api-key", "")
    return bool(key) and hmac.compare_digest(candidate.encode(), str(key).encode())
