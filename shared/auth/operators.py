"""The people and programs that manage the gateway, and their roles."""

import hmac
from collections.abc import Mapping
from typing import Literal

import msgspec

from shared.errors import InvalidApiKey, RoleRequired

Role = Literal["admin", "reader", "team_owner"]

ADMINS: frozenset[Role] = frozenset(("admin",))
READERS: frozenset[Role] = frozenset(("admin", "reader"))
OWNERS: frozenset[Role] = frozenset(("admin", "team_owner"))
EVERYONE: frozenset[Role] = frozenset(("admin", "reader", "team_owner"))

MANAGEMENT_KEY = "management-key"  # the name of whoever has it
_APP_ROLES: dict[Role, str] = {
    "admin": "Gateway.Admin",
    "reader": "Gateway.Reader",
    "team_owner": "Gateway.TeamOwner",
}


class Operator(msgspec.Struct, frozen=True):
    """An operator. `name` identifies it in the audit trail. `teams`: those that it owns; they count for a
    `team_owner` who has no other role."""

    name: str
    roles: frozenset[Role]
    teams: frozenset[str] = frozenset()

    def require(self, roles: frozenset[Role]) -> None:
        """Raise `RoleRequired` (403) unless the operator has one of these roles."""
        if not self.roles & roles:
            wanted = " or ".join(sorted(_APP_ROLES[role] for role in roles))
            raise RoleRequired(f"This needs the app role {wanted}, which {self.name} does not have.")

    def sees(self, team: str) -> bool:
        """True if it may read what belongs to a team."""
        return bool(self.roles & READERS) or team in self.teams

    def manages(self, team: str) -> bool:
        """True if it may change what belongs to a team."""
        return "admin" in self.roles or ("team_owner" in self.roles and team in self.teams)


class Operators:
    """Recognises operators. `key`: the management key; None: nobody has one."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    async def identify(self, headers: Mapping[str, str]) -> Operator:
        """The operator who sent a request. Raises `InvalidApiKey` (401)."""
        if has_key(headers, self._key):
            return Operator(MANAGEMENT_KEY, frozenset(("admin",)))
        raise InvalidApiKey("The management key is missing or wrong: send it as Authorization: Bearer KEY.")


def has_key(headers: Mapping[str, str], key: str | None) -> bool:
    """True if the request has the management key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
    return bool(key) and hmac.compare_digest(given.encode(), str(key).encode())
