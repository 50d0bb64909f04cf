"""Policies of API Management about who may call and how backends are called, as sections of the configuration."""

import ipaddress
import re
from urllib.parse import urlsplit

from shared.cli._apim_draft import Draft
from shared.cli._apim_expressions import is_expression
from shared.cli._apim_xml import Element

_KEY_HEADERS = ("api-key", "authorization")
_ROLE_CLAIMS = {"roles": "app_role", "groups": "group", "appid": "app", "azp": "app", "oid": "object"}
_GUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_GUID_IN_PATH = re.compile(f"^/({_GUID})(?:/|$)")
_MOST_SECONDS = 220


def ip_filter(draft: Draft, element: Element) -> None:
    """`ip-filter`: what it allows. The opposite cannot be said."""
    if element.get("action").lower() != "allow":
        text = "action forbid: the gateway has a list of allowed networks (allowed_networks), not of forbidden ones"
        draft.drop(element, text)
        return
    networks: list[str] = []
    for child in element.children:
        try:
            networks += _networks(child)
        except ValueError as error:
            draft.drop(child, f"{error}"[:200])
    if networks:
        draft.sections.setdefault("allowed_networks", []).extend(networks)
        draft.carried(element, f"allowed_networks: {', '.join(networks)}")
        draft.differs(element, "allowed_networks holds for the whole gateway, its page and management included")


def _networks(child: Element) -> list[str]:
    """Raises `ValueError`."""
    if child.name == "address":
        return [str(ipaddress.ip_network(child.text.strip()))]
    first, last = ipaddress.ip_address(child.get("from")), ipaddress.ip_address(child.get("to"))
    if isinstance(first, ipaddress.IPv4Address) and isinstance(last, ipaddress.IPv4Address):
        return [str(network) for network in ipaddress.summarize_address_range(first, last)]
    if isinstance(first, ipaddress.IPv6Address) and isinstance(last, ipaddress.IPv6Address):
        return [str(network) for network in ipaddress.summarize_address_range(first, last)]
    raise ValueError(f"expected two addresses of one kind, got {first} and {last}")


def validate_jwt(draft: Draft, element: Element) -> None:
    """`validate-jwt`, if it is about tokens of Entra ID."""
    configured = element.child("openid-config")
    parts = urlsplit(configured.get("url") if configured is not None else "")
    tenant = _GUID_IN_PATH.match(parts.path)
    if tenant is None or not (parts.hostname or "").startswith(("login.microsoftonline.", "login.windows.net")):
        text = "the gateway takes tokens of Entra ID, from tenants that are named by their id: see docs/entra.md"
        draft.drop(element, text)
        return
    _entra(draft, element, tenant[1], [])


def validate_entra_token(draft: Draft, element: Element) -> None:
    """`validate-azure-ad-token`."""
    if not re.fullmatch(_GUID, tenant := element.get("tenant-id")):
        draft.drop(element, f"tenant-id: expected a tenant's id, got {tenant[:60]!r}")
        return
    applications = element.child("client-application-ids")
    apps = applications.texts("application-id") if applications is not None else []
    _entra(draft, element, tenant, apps)


def _entra(draft: Draft, element: Element, tenant: str, apps: list[str]) -> None:
    audiences = [text for one in element.children if one.name == "audiences" for text in one.texts("audience")]
    plain = [audience for audience in audiences if not is_expression(audience)]
    if not plain:
        plain = ["api://tollgate"]
        draft.todo(element, "entra.audiences: add yours; none in the policy can be read")
    rules = [{"app": app} for app in apps if re.fullmatch(_GUID, app)]
    claims = element.child("required-claims")
    for claim in claims.children if claims is not None else ():
        rules += _rules(draft, claim)
    if not rules:
        rules = [{"app_role": "Gateway.Call"}]
        text = "entra.callers: the policy admits the whole tenant; the gateway admits by rules, such as app_role"
        draft.todo(element, text)
    draft.sections["entra"] = {"tenants": [tenant], "audiences": plain, "callers": rules}
    draft.carried(element, f"entra: tenant {tenant}, audiences {', '.join(plain)}, {len(rules)} rules")
    draft.differs(element, "a key is enough without a token, and a token without a key: the policy may want both")
    for name in ("issuer-signing-keys", "decryption-keys", "issuers"):
        if element.child(name) is not None:
            draft.drop(element.child(name), "keys and issuers follow from the tenant")


def _rules(draft: Draft, claim: Element) -> list[dict[str, str]]:
    name, values = claim.get("name"), claim.texts("value")
    selector = _ROLE_CLAIMS.get(name)
    if selector is None or (claim.get("match").lower() == "all" and len(values) > 1):
        known = ", ".join(_ROLE_CLAIMS)
        draft.drop(claim, f"{name}: a rule of entra.callers matches one value of {known}")
        return []
    return [{selector: value} for value in values if not is_expression(value)]


def cors(draft: Draft, element: Element) -> None:
    """`cors`: its origins. Methods and headers are those that the API has."""
    allowed = element.child("allowed-origins")
    origins = [one for one in (allowed.texts("origin") if allowed is not None else []) if not is_expression(one)]
    origins = ["*" if origin == "*" else "{0.scheme}://{0.netloc}".format(urlsplit(origin)) for origin in origins]
    if origins:
        draft.put(element, "cors.origins", origins)
    for name in ("allowed-methods", "allowed-headers", "expose-headers"):
        if (child := element.child(name)) is not None:
            draft.differs(child, "the gateway allows the methods and headers that its API has")


def identity(draft: Draft, element: Element) -> None:
    """`authentication-managed-identity`."""
    draft.carried(element, f"backends: auth: managed_identity, for {element.get('resource') or 'the API'}")
    if client := element.get("client-id"):
        draft.todo(element, f"set AZURE_CLIENT_ID to {client}, or to the gateway's own identity")


def set_header(draft: Draft, element: Element) -> None:
    """`set-header`: a key of the backends. The gateway adds no other header."""
    name, values = element.get("name"), element.texts("value")
    if name.lower() not in _KEY_HEADERS:
        draft.drop(element, f"{name}: the gateway forwards the headers that Azure OpenAI knows")
        return
    named = re.fullmatch(r"(?:Bearer\s+)?\{\{([\w.-]+)\}\}", values[0]) if values else None
    if name.lower() == "authorization" and named is None:
        draft.carried(element, "backends: the gateway signs in itself, with its managed identity")
        return
    variable = re.sub(r"\W", "_", named[1] if named is not None else "AZURE_OPENAI_KEY").upper()
    draft.auth = {"api_key_env": variable}
    draft.carried(element, f"backends: auth: api_key_env: {variable}")
    draft.todo(element, f"put the backends' key into the environment variable {variable}; it is not copied")


def query(draft: Draft, element: Element) -> None:
    """`set-query-parameter`: the version of the API."""
    values = element.texts("value")
    if element.get("name") == "api-version" and values and not is_expression(values[0]):
        draft.api_version = values[0]
        draft.carried(element, f"backends: api_version: {values[0]}, for callers of /v1")
    else:
        draft.drop(element, f"{element.get('name')}: the gateway adds no other query parameter")


def forward(draft: Draft, element: Element) -> None:
    """`forward-request`: its time."""
    seconds = element.get("timeout")
    if seconds.isascii() and seconds.isdigit() and int(seconds[:9]) > 0:
        draft.put(element, "timeouts.total", min(int(seconds[:9]), _MOST_SECONDS))
        if int(seconds[:9]) > _MOST_SECONDS:
            draft.differs(element, f"timeout {seconds} s: at most {_MOST_SECONDS} s; streams may go on longer")
    else:
        draft.carried(element, "calls are forwarded, streams as they come")
