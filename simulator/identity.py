"""The managed identity endpoint of App Service, as azure-identity calls it, and the validation of its tokens.

Tokens for Azure OpenAI are random texts, which the regions look up. Those for an application are the tenant's JWTs.

https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import web

from .config import Seconds
from .tenant import APPLICATION_ID, AUDIENCE, MANAGED_IDENTITY_ROLES, Mint, Tenant

API_VERSION = "2019-08-01"
AUDIENCES = frozenset({"https://cognitiveservices.azure.com", "https://ai.azure.com"})
TOKEN_LIFETIME_SECONDS = 86_400
TOKEN_PATH = "/msi/token"
_OF_THE_TENANT = (AUDIENCE, APPLICATION_ID)


class IdentitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With a `failing_status` every token request fails with that status."""

    token_lifetime_seconds: Seconds = TOKEN_LIFETIME_SECONDS
    failing_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None


class IssuedToken(msgspec.Struct, frozen=True):
    audience: str
    expires_on: float


class IdentityProvider:
    """Issues and validates tokens. `header` is the secret value of X-IDENTITY-HEADER."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.header = secrets.token_hex(16)
        self._issued: dict[str, IssuedToken] = {}
        self.reset()

    def reset(self) -> None:
        """Restore the initial settings and count. Issued tokens stay valid."""
        self.settings = IdentitySettings()
        self.tokens_issued = 0

    def issue(self, resource: str, now: float) -> tuple[str, IssuedToken]:
        self._issued = {token: issued for token, issued in self._issued.items() if issued.expires_on > now}
        token = secrets.token_urlsafe(48)
        issued = IssuedToken(resource.rstrip("/"), now + self.settings.token_lifetime_seconds)
        self._issued[token] = issued
        self.tokens_issued += 1
        return token, issued

    def accepts(self, token: str, now: float) -> bool:
        issued = self._issued.get(token)
        return issued is not None and issued.expires_on > now and issued.audience in AUDIENCES

    async def handle(self, request: web.Request) -> web.Response:
        """GET /msi/token?api-version=2019-08-01&resource=…[&client_id=…]"""
        if not hmac.compare_digest(request.headers.get("x-identity-header", "").encode(), self.header.encode()):
            return _refusal(401, "The header X-IDENTITY-HEADER is missing or wrong.")
        if request.query.get("api-version") != API_VERSION:
            return _refusal(400, f"The parameter api-version must be {API_VERSION}.")
        resource = request.query.get("resource")
        if not resource:
            return _refusal(400, "The parameter resource is missing.")
        if self.settings.failing_status is not None:
            return _refusal(self.settings.failing_status, "The identity service is set to fail.")
        client_id = request.query.get("client_id")
        if resource in _OF_THE_TENANT:
            spec = Mint(
                name=client_id or "system-assigned",
                kind="managed_identity",
                client_id=client_id,
                roles=MANAGED_IDENTITY_ROLES,
                audience=resource,
                lifetime_seconds=self.settings.token_lifetime_seconds,
            )
            token = await self._tenant.mint(f"http://{request.host}", spec)
            expires_on = time.time() + spec.lifetime_seconds
        else:
            token, issued = self.issue(resource, time.time())
            expires_on = issued.expires_on
        body = {
            "access_token": token,
            "expires_on": str(int(expires_on)),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": client_id or "00000000-0000-0000-0000-000000000000",
        }
        return _json(200, body)


def _refusal(status: int, message: str) -> web.Response:
    return _json(status, {"statusCode": status, "message": message})


def _json(status: int, body: Mapping[str, str | int]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
