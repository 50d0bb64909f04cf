"""Operators by management key and by app role."""

import pytest

from shared.auth._jwt import Identity
from shared.auth.caller_rules import teams_owned
from shared.auth.operators import ADMINS, EVERYONE, OWNERS, READERS, Operators, operator_of
from shared.errors import InvalidApiKey, RoleRequired

KEY = "k" * 32


def identity(*roles: str, groups: tuple[str, ...] = ()) -> Identity:
    return Identity("entra-t-o", "ann", "t", "o", "a", frozenset(roles), groups, False, 0.0)


async def test_the_management_key_makes_an_administrator() -> None:
    for headers in ({"authorization": f"Bearer {KEY}"}, {"api-key": KEY}):
        operator = await Operators(KEY).identify(headers)
        operator.require(ADMINS)
        assert operator.name == "management-key"
    for headers in ({}, {"api-key": "x"}, {"authorization": "Bearer eyJ.eyJ.x"}, {"authorization": f"Basic {KEY}"}):
        for key in (KEY, None):
            with pytest.raises(InvalidApiKey, match="management key"):
                await Operators(key).identify(headers)


@pytest.mark.parametrize(
    ("app_role", "allowed"),
    [
        ("Gateway.Admin", (ADMINS, READERS, OWNERS, EVERYONE)),
        ("Gateway.Reader", (READERS, EVERYONE)),
        ("Gateway.TeamOwner", (OWNERS, EVERYONE)),
    ],
)
def test_an_app_role_opens_what_it_is_for_and_a_refusal_names_the_missing_role(
    app_role: str, allowed: tuple[frozenset[str], ...]
) -> None:
    operator = operator_of(identity(app_role, "Gateway.Call"), {})
    for roles in (ADMINS, READERS, OWNERS, EVERYONE):
        if roles in allowed:
            operator.require(roles)
        else:
            with pytest.raises(RoleRequired, match=r"ann \(o\) lacks the app role for this: Gateway\.Admin"):
                operator.require(roles)


def test_a_caller_without_a_role_is_told_which_there_are() -> None:
    with pytest.raises(RoleRequired, match=r"Gateway\.Admin or Gateway\.Reader or Gateway\.TeamOwner"):
        operator_of(identity("Gateway.Call", "gateway.admin"), {})


def test_a_team_is_owned_by_its_owners_and_by_the_members_of_its_groups() -> None:
    owners = {"research": ["O"], "sales": ["someone", "G2"], "none": []}
    assert teams_owned(identity(groups=("g1", "g2")), owners) == {"research", "sales"}
    operator = operator_of(identity("Gateway.TeamOwner"), owners)
    assert operator.manages("research")
    assert not operator.manages("sales")
    assert not operator_of(identity("Gateway.Reader"), owners).manages("research")
