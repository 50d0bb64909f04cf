"""The ways to sign in to the page. Needs no authentication."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from starlette.responses import Response

from shared.config.callers import EntraSettings
from shared.management.routes import ManagementRequest, Route, refuse_unknown
from shared.responses.rendering import JsonResponse


class EntraSignIn(msgspec.Struct, frozen=True):
    """The application by which people sign in with Entra ID, and the scope of their tokens for this gateway."""

    authority: str
    tenants: list[str]
    client_id: str
    scope: str


class SignIn(msgspec.Struct, frozen=True):
    """Beside keys. `entra` null: there is no sign-in with Entra ID."""

    entra: EntraSignIn | None


class SignInRoutes:
    """`GET /gateway/sign-in`, open to anybody: it holds what a browser sends to Entra ID in the clear."""

    def __init__(self, entra: EntraSettings | None) -> None:
        self._sign_in = SignIn(of_entra(entra))

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/gateway/sign-in", "anyone", self._read, gives=SignIn),)

    async def _read(self, request: ManagementRequest) -> Response:
        """Read how people sign in to the page."""
        refuse_unknown(request.query)
        return JsonResponse(self._sign_in, headers={"cache-control": "no-cache"})


def of_entra(entra: EntraSettings | None) -> EntraSignIn | None:
    if entra is None or entra.page_client_id is None:
        return None
    tenants, authority = [tenant.lower() for tenant in entra.tenants], entra.authority.rstrip("/")
    # An application gets tokens for itself by its id alone (AADSTS90009).
    audience = entra.page_client_id if entra.page_client_id in entra.audiences else entra.audiences[0]
    return EntraSignIn(authority, tenants, entra.page_client_id, f"{audience}/.default")


def origin_of_authority(entra: EntraSettings | None) -> str:
    """The origin that the page asks for tokens; "" if it asks none."""
    if (sign_in := of_entra(entra)) is None:
        return ""
    parts = urlsplit(sign_in.authority)
    return f"{parts.scheme}://{parts.netloc}"
