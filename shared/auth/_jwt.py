"""Reads tokens of Entra ID (JWT) and checks all but their signature. Pure.

These checks come first, because they are cheap: a token that fails one costs no cryptography.
Claims: learn.microsoft.com/entra/identity-platform/access-token-claims-reference.
"""

import base64
import re
import sys
from typing import Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.config.callers import EntraSettings

MOST_CHARACTERS = 16_384  # with the 200 groups that Entra lists at most, a token has about 12,000
LEEWAY = 60.0  # seconds by which clocks may differ
ENTRA = "entra-"  # the beginning of a consumer's id; then tenant and object id

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST_NAME = 128
_CHINA = "https://login.partner.microsoftonline.cn"
_GET_ANOTHER = "Request a token for the scope AUDIENCE/.default, and send it as Authorization: Bearer TOKEN."


class Header(msgspec.Struct):
    """`jku`, `x5u`, `jwk` and the like are not read: only the tenant says which keys are its own."""

    alg: str = ""
    kid: str = ""


class Claims(msgspec.Struct, rename={"claim_names": "_claim_names"}):
    """The claims that the gateway reads. v1 names the client application `appid`, v2 `azp`."""

    iss: str = ""
    aud: str | list[str] = ""
    tid: str = ""
    oid: str = ""
    exp: float = 0.0
    nbf: float = 0.0
    appid: str = ""
    azp: str = ""
    roles: list[str] = []
    groups: list[str] = []
    hasgroups: Any = None
    claim_names: Any = None
    preferred_username: str | None = None
    upn: str | None = None
    unique_name: str | None = None
    app_displayname: str | None = None
    xms_mirid: str | None = None


class Identity(msgspec.Struct, frozen=True, eq=False):
    """A user, service principal or managed identity, as a verified token describes it. `address`: that of its tenant;
    `object`: its own id there; `app`: the client application. `groups_missing`: the token has no groups, because there
    are too many. `ends`: seconds since 1970. Compared by identity: there is one per token."""

    consumer_id: str
    name: str
    address: str
    object: str
    app: str
    roles: frozenset[str]
    groups: tuple[str, ...]
    groups_missing: bool
    ends: float


class Token(msgspec.Struct, frozen=True):
    header: Header
    claims: Claims


class Accepted(msgspec.Struct, frozen=True):
    """The tokens that a gateway accepts. `issuers`: tenant -> its issuers; `tenants`: tenant -> its address."""

    audiences: frozenset[str]
    issuers: dict[str, tuple[str, str]]
    tenants: dict[str, str]

    @classmethod
    def of(cls, settings: EntraSettings) -> "Accepted":
        authority = settings.authority.rstrip("/")
        v1 = "https://sts.chinacloudapi.cn" if authority == _CHINA else "https://sts.windows.net"
        tenants = {tenant.lower(): f"{authority}/{tenant.lower()}" for tenant in settings.tenants}
        issuers = {tenant: (f"{v1}/{tenant}/", f"{address}/v2.0") for tenant, address in tenants.items()}
        return cls(frozenset(settings.audiences), issuers, tenants)


def looks_like_token(text: str) -> bool:
    """True for a JWT, valid or not: no key of a gateway or of Azure begins like its header."""
    return text.startswith("eyJ") and text.count(".") >= 2


def parse(text: str) -> Token | str:
    """The token in a text, or the reason why there is none."""
    if len(text) > MOST_CHARACTERS:
        return f"The token is longer than {MOST_CHARACTERS} characters."
    if text.count(".") == 4:
        return "The token is encrypted. The gateway reads signed tokens only."
    if not _SHAPE.fullmatch(text):
        return "The token is not a JWT: expected three parts in base64url, separated by dots."
    header, claims, _ = text.split(".")
    try:
        return Token(
            msgspec.json.decode(_decoded(header), type=Header), msgspec.json.decode(_decoded(claims), type=Claims)
        )
    except (*UNREADABLE, ValueError):
        return "The token is not a JWT of Entra ID: its header or claims are not JSON, or have the wrong types."


def problem(token: Token, accepted: Accepted, now: float) -> str:
    """The reason why a token is rejected, "" if everything but its signature is in order. Tokens that are not valid yet
    pass: see `not_yet`."""
    header, claims = token.header, token.claims
    if header.alg != "RS256":
        return f"The token is signed with {_quoted(header.alg)}. Expected RS256, as Entra ID signs."
    if not header.kid:
        return "The token has no kid, the id of the key that signed it."
    issuers = accepted.issuers.get(claims.tid.lower())
    if issuers is None:
        return f"The token is from the tenant {_quoted(claims.tid)}, whose callers this gateway does not admit."
    if claims.iss not in issuers:
        return f"The token was issued by {_quoted(claims.iss)}. Expected {' or '.join(issuers)}."
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if not accepted.audiences.intersection(audiences):
        expected = " or ".join(sorted(accepted.audiences))
        return f"The token is for the audience {_quoted(', '.join(audiences))}. Expected {expected}. {_GET_ANOTHER}"
    if now >= claims.exp + LEEWAY:
        return "The token has expired. Request a new one."
    if not _GUID.fullmatch(claims.oid.lower()):
        return "The token does not identify its caller: it has no oid. Its application needs a service principal."
    if not (claims.azp or claims.appid):
        return f"The token is not an access token: it has no azp or appid claim. {_GET_ANOTHER}"
    return ""


def not_yet(token: Token, now: float) -> bool:
    """True for a token whose validity begins later."""
    return now < token.claims.nbf - LEEWAY


def identity(claims: Claims, address: str) -> Identity:
    """The caller with these claims, which `problem` finds in order."""
    oid, app = claims.oid.lower(), (claims.azp or claims.appid).lower()
    names = (claims.preferred_username, claims.upn, claims.unique_name, claims.app_displayname)
    resource = (claims.xms_mirid or "").rpartition("/")[2]  # of a managed identity
    return Identity(
        consumer_id=f"{ENTRA}{claims.tid.lower()}-{oid}",
        name=next(filter(None, (_printable(name) for name in (*names, resource, app))), oid),
        address=address,
        object=oid,
        app=app,
        roles=frozenset(claims.roles),
        groups=tuple(sys.intern(group.lower()) for group in claims.groups),  # many callers have the same ones
        groups_missing=_groups_missing(claims),
        ends=claims.exp,
    )


def _groups_missing(claims: Claims) -> bool:
    """True if Entra left the groups out: of a token of more than 200 (`_claim_names`), or of one from the implicit flow
    (`hasgroups`)."""
    left_out = isinstance(claims.claim_names, dict) and "groups" in claims.claim_names
    return not claims.groups and (left_out or str(claims.hasgroups).lower() == "true")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _printable(name: str | None) -> str:
    return "".join(character for character in name or "" if character.isprintable()).strip()[:_LONGEST_NAME]


def _quoted(claim: str) -> str:
    """A claim of a token that is not verified, as messages show it."""
    return repr(claim[:80]) if claim else "none"
