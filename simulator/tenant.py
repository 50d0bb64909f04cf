"""A tenant of Entra ID: OpenID configuration, signing keys that roll over, and tokens of both versions. People sign in
by `tenant_sign_in.py`.

https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

import asyncio
import hmac
import secrets
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from .tenant_sign_in import Person, SignIns, allow_any_origin

TENANT_ID = "3f7f6c1e-0d2b-4a55-9d6e-70c1a7e00001"
APPLICATION_ID = "3f7f6c1e-0d2b-4a55-9d6e-70c1a7e00002"  # the audience of v2 tokens
AUDIENCE = "api://tollgate"  # the audience of v1 tokens, the default of new applications
ROLES = {"caller": ("Gateway.Call",), "operator": ("Gateway.Admin",)}  # of the registered clients
MANAGED_IDENTITY_ROLES = ("Gateway.Call",)

Version = Literal[1, 2]
_LISTS = {1: "/{tenant}/discovery/keys", 2: "/{tenant}/discovery/v2.0/keys"}
_OPENID = {1: "/{tenant}/.well-known/openid-configuration", 2: "/{tenant}/v2.0/.well-known/openid-configuration"}
_TOKENS = {1: "/{tenant}/oauth2/token", 2: "/{tenant}/oauth2/v2.0/token"}
_AUTHORIZE = "/{tenant}/oauth2/v2.0/authorize"


class TenantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With a `failing_status`, the OpenID configuration and the keys are answered with it; after `delay_seconds`."""

    failing_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0


class Mint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token to mint. `name` identifies the user, application or managed identity, unless `object_id` is given.
    `many_groups`: the token does not list its groups. `claims` and `headers` replace others; null removes one."""

    name: str = "someone"
    kind: Literal["user", "app", "managed_identity"] = "app"
    object_id: str | None = None
    client_id: str | None = None
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    many_groups: bool = False
    version: Version = 1
    audience: str | None = None
    lifetime_seconds: float = 3600.0
    claims: dict[str, Any] = {}
    headers: dict[str, Any] = {}


class Roll(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new signing key for each version of tokens. `withdraw`: the old ones are no longer published."""

    withdraw: bool = False


class _SigningKey(msgspec.Struct, frozen=True):
    kid: str
    private: Any
    public: dict[str, Any]


class Tenant:
    """One tenant. Its addresses are below that of the control endpoint. Keys are made with the first use."""

    def __init__(self) -> None:
        self.secrets = {name: secrets.token_urlsafe(24) for name in ROLES}
        self._keys: dict[Version, list[_SigningKey]] = {1: [], 2: []}
        self._rolling = asyncio.Lock()
        self.sign_ins = SignIns(_id("page", "client"), (AUDIENCE, APPLICATION_ID), self._mint_for)
        self.reset()

    def reset(self) -> None:
        """Restore the initial settings and count. Keys and tokens stay valid."""
        self.settings = TenantSettings()
        self.key_reads = 0
        self.sign_ins.reset()

    def routes(self) -> list[web.RouteDef]:
        gets = [web.get(_OPENID[version], partial(self._openid, version)) for version in (1, 2)]
        gets += [web.get(_LISTS[version], partial(self._list_keys, version)) for version in (1, 2)]
        posts = [web.post(path, self._token) for path in _TOKENS.values()]
        return [*gets, *posts, *(web.route(method, _AUTHORIZE, self._authorize) for method in ("GET", "POST"))]

    def places(self, authority: str) -> dict[str, Any]:
        """The facts that a parent process needs to use the tenant."""
        clients = {name: {"client_id": _id(name, "client"), "client_secret": self.secrets[name]} for name in ROLES}
        audiences = [AUDIENCE, APPLICATION_ID]
        page = _id("page", "client")
        tenant = {"authority": authority, "id": TENANT_ID, "audiences": audiences, "clients": clients}
        return {**tenant, "page_client_id": page}

    async def roll(self, roll: Roll) -> None:
        async with self._rolling:
            await self._add_keys(withdraw=roll.withdraw)

    async def mint(self, authority: str, spec: Mint, now: float | None = None) -> str:
        """A signed token."""
        import jwt  # takes 0.1 s, and few tests need it

        now = time.time() if now is None else now
        async with self._rolling:
            if not self._keys[1]:
                await self._add_keys()
        claims = _claims(authority, spec, now) | spec.claims
        key = self._keys[spec.version][-1]
        headers = {"kid": key.kid, "x5t": key.kid} | spec.headers
        return jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            key.private,
            algorithm="RS256",
            headers={name: value for name, value in headers.items() if value is not None},
        )

    async def _add_keys(self, *, withdraw: bool = False) -> None:
        versions: tuple[Version, ...] = (1, 2)
        for version in versions:
            new = await asyncio.to_thread(_new_key)
            self._keys[version] = [*([] if withdraw else self._keys[version]), new]

    async def _authorize(self, request: web.Request) -> web.Response:
        return await self._refusal(request) or await self.sign_ins.authorize(request)

    async def _mint_for(self, authority: str, person: Person, lasts: float) -> str:
        spec = Mint(
            name=person.name,
            kind="user",
            client_id=_id("page", "client"),
            roles=person.roles,
            groups=person.groups,
            lifetime_seconds=lasts,
        )
        return await self.mint(authority, spec)

    async def _openid(self, version: Version, request: web.Request) -> web.Response:
        return allow_any_origin(await self._refusal(request) or self._openid_configuration(version, request.host))

    def _openid_configuration(self, version: Version, host: str) -> web.Response:
        base = f"http://{host}"
        return _json(
            200,
            {
                "issuer": _issuer(base, version),
                "jwks_uri": base + _LISTS[version].format(tenant=TENANT_ID),
                "authorization_endpoint": base + _AUTHORIZE.format(tenant=TENANT_ID),
                "token_endpoint": base + _TOKENS[version].format(tenant=TENANT_ID),
                "id_token_signing_alg_values_supported": ["RS256"],
            },
        )

    async def _list_keys(self, version: Version, request: web.Request) -> web.Response:
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        self.key_reads += 1
        async with self._rolling:
            if not self._keys[1]:
                await self._add_keys()
        return _json(200, {"keys": [key.public for key in self._keys[version]]})

    async def _refusal(self, request: web.Request) -> web.Response | None:
        await asyncio.sleep(self.settings.delay_seconds)
        if self.settings.failing_status is not None:
            return _json(self.settings.failing_status, {"error": "temporarily_unavailable"})
        if request.match_info["tenant"].lower() != TENANT_ID:
            return _error(400, "invalid_tenant", "AADSTS90002: Tenant not found.")
        return None

    async def _token(self, request: web.Request) -> web.Response:
        """Tokens of registered clients, and of people who sign in."""
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        form = dict(await request.post())
        if form.get("grant_type") == "client_credentials":
            return await self._client_credentials(request, form)
        if form.get("grant_type") in ("authorization_code", "refresh_token"):
            return allow_any_origin(await self.sign_ins.redeem(request, form))
        return _error(400, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")

    async def _client_credentials(self, request: web.Request, form: Mapping[str, Any]) -> web.Response:
        """The token of a registered client, which authenticates with its secret."""
        name = next((name for name in ROLES if _id(name, "client") == form.get("client_id")), None)
        secret = str(form.get("client_secret", "")).encode()
        if name is None or not hmac.compare_digest(secret, self.secrets[name].encode()):
            return _error(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        audience = str(form.get("resource") or form.get("scope", "")).removesuffix("/.default")
        if audience not in (AUDIENCE, APPLICATION_ID):
            return _error(400, "invalid_resource", f"AADSTS500011: The resource principal {audience} was not found.")
        spec = Mint(name=name, client_id=_id(name, "client"), roles=ROLES[name], audience=audience)
        token = await self.mint(f"http://{request.host}", spec)
        return _json(200, {"token_type": "Bearer", "expires_in": 3599, "access_token": token})


def _claims(authority: str, spec: Mint, now: float) -> dict[str, Any]:
    """The claims of a token, of which the versions name some differently."""
    user, v2 = spec.kind == "user", spec.version == 2
    client = spec.client_id or _id("a client" if user else spec.name, "client")
    object_id = spec.object_id or _id(spec.name, spec.kind)
    claims: dict[str, Any] = {
        "aud": spec.audience or (APPLICATION_ID if v2 else AUDIENCE),
        "iss": _issuer(authority, spec.version),
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now + spec.lifetime_seconds),
        "azp" if v2 else "appid": client,
        "oid": object_id,
        "sub": object_id,
        "tid": TENANT_ID,
        "ver": f"{spec.version}.0",
        "uti": secrets.token_urlsafe(16),
    }
    if spec.roles:
        claims["roles"] = list(spec.roles)
    if spec.many_groups:
        claims["_claim_names"] = {"groups": "src1"}
        claims["_claim_sources"] = {"src1": {"endpoint": f"{authority}/{TENANT_ID}/users/{object_id}/getMemberObjects"}}
    elif spec.groups:
        claims["groups"] = list(spec.groups)
    if user:
        claims |= {"scp": "user_impersonation", "name": spec.name.title()}
        claims["preferred_username" if v2 else "upn"] = f"{spec.name}@contoso.com"
    elif spec.kind == "managed_identity":
        resource = f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{spec.name}"
        claims |= {"idtyp": "app", "xms_mirid": f"/subscriptions/{_id('a', 'subscription')}/resourcegroups/x{resource}"}
    elif not v2:
        claims |= {"idtyp": "app", "app_displayname": spec.name}
    return claims


def _issuer(authority: str, version: Version) -> str:
    return f"{authority}/{TENANT_ID}/v2.0" if version == 2 else f"https://sts.windows.net/{TENANT_ID}/"


def _id(name: str, kind: str) -> str:
    """The same id for the same name, as in a directory."""
    return str(uuid.uuid5(uuid.UUID(TENANT_ID), f"{kind}/{name}"))


def _new_key() -> _SigningKey:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwt.algorithms import RSAAlgorithm

    private = rsa.generate_private_key(65537, 2048)
    kid = secrets.token_urlsafe(20)
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return _SigningKey(kid, private, {"kid": kid, "kty": "RSA", "use": "sig", "n": public["n"], "e": public["e"]})


def _error(status: int, code: str, description: str) -> web.Response:
    return _json(status, {"error": code, "error_description": description})


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
