"""Entra ID as the page is told of it, and the hosts that it may ask."""

import msgspec
import pytest

from shared.config.callers import EntraSettings
from shared.management.page_files import PageRoutes
from shared.management.routes import ManagementRequest
from shared.management.sign_in import SignInRoutes, of_entra, origin_of_authority

TENANT, API, PAGE = (f"{digit * 8}-1111-1111-1111-{digit * 12}" for digit in "abc")
KEYS_ONLY = EntraSettings(tenants=[TENANT], audiences=["api://tollgate"])
WITH_PAGE = EntraSettings(tenants=[TENANT.upper()], audiences=["api://tollgate", API], page_client_id=PAGE)


@pytest.mark.parametrize("entra", [None, KEYS_ONLY])
async def test_without_an_application_of_the_page_it_knows_no_entra_and_asks_the_gateway_alone(
    entra: EntraSettings | None,
) -> None:
    answer = await SignInRoutes(entra).routes()[0].handler(ManagementRequest({}, {}))
    assert msgspec.json.decode(answer.body) == {"entra": None}
    assert "connect-src 'self';" in await policy(entra)


async def test_with_one_it_asks_the_authority_too() -> None:
    answer = await SignInRoutes(WITH_PAGE).routes()[0].handler(ManagementRequest({}, {}))
    assert msgspec.json.decode(answer.body)["entra"] == {
        "authority": "https://login.microsoftonline.com",
        "tenants": [TENANT],
        "client_id": PAGE,
        "scope": "api://tollgate/.default",
    }
    assert "connect-src 'self' https://login.microsoftonline.com;" in await policy(WITH_PAGE)
    assert "unsafe" not in await policy(WITH_PAGE)


def test_an_application_that_is_its_own_audience_is_named_by_its_id() -> None:
    one = of_entra(msgspec.structs.replace(WITH_PAGE, page_client_id=API))
    assert one is not None
    assert one.scope == f"{API}/.default"


async def policy(entra: EntraSettings | None) -> str:
    answer = await PageRoutes(origin_of_authority(entra)).routes()[0].handler(ManagementRequest({}, {}))
    return answer.headers["content-security-policy"]
