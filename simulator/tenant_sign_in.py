"""The sign-in of people in the simulated tenant: the authorization endpoint, and the token endpoint of a page.

Authorization code with PKCE for a single-page application: an application with that kind of redirect URI redeems a code
from its own origin alone, and without a secret. The form lists the registered people, and asks for no password.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
"""

import base64
import hashlib
import hmac
import html
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

_REDIRECT = re.compile(r"http://(127\.0\.0\.1|localhost)(:\d{1,5})?/gateway/")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_NAME = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9.-]{0,63}$")]
_REFRESH_SECONDS = 86_400.0  # of a single-page application


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody who may sign in."""

    name: _NAME
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


PEOPLE = (
    Person(name="ada.admin", roles=("Gateway.Admin",)),
    Person(name="rita.reader", roles=("Gateway.Reader",)),
    Person(name="olga.owner", roles=("Gateway.TeamOwner",)),
    Person(name="carl.caller", roles=("Gateway.Call",)),
)


class SignInSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lifetimes in seconds. `renews`: False refuses refresh tokens, as after an administrator revoked the sessions."""

    code_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 600.0
    token_seconds: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 3600.0
    renews: bool = True


class _Code(msgspec.Struct, frozen=True):
    person: Person
    redirect_uri: str
    challenge: str
    scope: str
    ends: float


MintFor = Callable[[str, Person, float], Awaitable[str]]
"""Mints an access token: the authority, the person, and the token's lifetime."""


class SignIns:
    """The codes and refresh tokens of one application. `audiences`: those that its scope may name."""

    def __init__(self, client_id: str, audiences: tuple[str, ...], mint: MintFor) -> None:
        self._client_id = client_id
        self._audiences = audiences
        self._mint = mint
        self._codes: dict[str, _Code] = {}
        self._renewals: dict[str, tuple[Person, str, float]] = {}  # refresh token -> person, scope, end
        self.reset()

    def reset(self) -> None:
        """Restore the initial people and settings. Tokens stay valid."""
        self.settings = SignInSettings()
        self.people = {person.name: person for person in PEOPLE}

    async def authorize(self, request: web.Request) -> web.Response:
        """The form (GET), or the answer to it (POST): back to the page with a code, or with the refusal."""
        query = dict(request.query)
        if query.get("client_id") != self._client_id:
            return _page(400, "<p>AADSTS700016: Application was not found in the directory.</p>")
        if not _REDIRECT.fullmatch(query.get("redirect_uri", "")):
            return _page(400, "<p>AADSTS50011: The redirect URI does not match those configured.</p>")
        if (problem := self._problem(query)) is not None:
            return _back(query, error=problem[0], error_description=problem[1])
        if request.method == "GET":
            return _page(200, self._form())
        person = self.people.get(str((await request.post()).get("user", "")))
        if person is None:
            description = "AADSTS65004: User declined to consent to access the app."
            return _back(query, error="access_denied", error_description=description)
        code = secrets.token_urlsafe(32)
        ends = time.time() + self.settings.code_seconds
        self._codes[code] = _Code(person, query["redirect_uri"], query["code_challenge"], query["scope"], ends)
        return _back(query, code=code, session_state=secrets.token_hex(8))

    def _problem(self, query: Mapping[str, str]) -> tuple[str, str] | None:
        if query.get("response_type") != "code":
            return "unsupported_response_type", "AADSTS700054: response_type is not enabled for the application."
        if query.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(query.get("code_challenge", "")):
            return "invalid_request", "AADSTS9002325: Proof Key for Code Exchange is required."
        if not {f"{audience}/.default" for audience in self._audiences} & {*query.get("scope", "").split()}:
            return "invalid_scope", "AADSTS70011: The provided value for the input parameter 'scope' is not valid."
        return None

    def _form(self) -> str:
        buttons = "".join(
            f'<button name="user" value="{html.escape(name)}">{html.escape(name)}@contoso.com</button> '
            for name in self.people
        )
        return (
            f'<h1>Pick an account</h1><form method="post">{buttons}<button name="user" value="">Cancel</button></form>'
        )

    async def redeem(self, request: web.Request, form: Mapping[str, Any]) -> web.Response:
        """Tokens for a code, or for a refresh token."""
        if "origin" not in request.headers:
            return _refused("AADSTS9002327: Tokens issued for the 'Single-Page Application' client-type may only be "
                            "redeemed via cross-origin requests.", "invalid_request")  # fmt: skip
        if form.get("client_id") != self._client_id or "client_secret" in form:
            return _refused("AADSTS700025: Client is public so no client secret should be presented.", "invalid_client")
        if form.get("grant_type") == "refresh_token":
            person, scope, ends = self._renewals.get(str(form.get("refresh_token")), (None, "", 0.0))
            if person is None or time.time() >= ends or not self.settings.renews:
                return _refused("AADSTS50173: The provided grant has expired due to it being revoked.")
            return await self._tokens(f"http://{request.host}", person, scope)
        code = self._codes.pop(str(form.get("code")), None)  # a code counts once, also if it is refused
        if code is None:
            return _refused("AADSTS54005: OAuth2 Authorization code was already redeemed.")
        if time.time() >= code.ends:
            return _refused("AADSTS70008: The provided authorization code has expired.")
        if form.get("redirect_uri") != code.redirect_uri:
            return _refused("AADSTS50011: The redirect URI does not match that of the authorization code.")
        if not hmac.compare_digest(_challenge_of(str(form.get("code_verifier", ""))), code.challenge):
            return _refused("AADSTS501481: The Code_Verifier does not match the code_challenge.")
        return await self._tokens(f"http://{request.host}", code.person, code.scope)

    async def _tokens(self, authority: str, person: Person, scope: str) -> web.Response:
        lasts = self.settings.token_seconds
        token = await self._mint(authority, person, lasts)
        body = {"token_type": "Bearer", "scope": scope, "expires_in": int(lasts), "access_token": token}
        if "offline_access" in scope.split():
            body["refresh_token"] = secrets.token_urlsafe(48)
            self._renewals[str(body["refresh_token"])] = person, scope, time.time() + _REFRESH_SECONDS
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def allow_any_origin(response: web.Response) -> web.Response:
    """Let pages read an answer, as Entra does for what is public and for single-page applications."""
    response.headers["access-control-allow-origin"] = "*"
    return response


def _challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _back(query: Mapping[str, str], **answer: str) -> web.Response:
    """Back to the page, with the answer in the fragment or in the query."""
    if "state" in query:
        answer["state"] = query["state"]
    mark = "?" if query.get("response_mode", "query") == "query" else "#"
    return web.Response(status=302, headers={"location": f"{query['redirect_uri']}{mark}{urlencode(answer)}"})


def _page(status: int, body: str) -> web.Response:
    head = '<title>Sign in (simulated)</title><link rel="icon" href="data:,">'
    text = f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>'
    return web.Response(status=status, text=text, content_type="text/html")


def _refused(description: str, code: str = "invalid_grant") -> web.Response:
    body = {"error": code, "error_description": description}
    return web.Response(status=400, body=msgspec.json.encode(body), content_type="application/json")
