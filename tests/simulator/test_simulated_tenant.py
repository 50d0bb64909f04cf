"""The tenant of Entra ID that the simulator plays, as its documentation describes it."""

import base64
import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import jwt
import pytest
from azure.identity import ManagedIdentityCredential

from simulator.process import SimulatorProcess
from simulator.tenant import APPLICATION_ID, AUDIENCE, TENANT_ID

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, form: dict[str, str] | None = None) -> Any:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with _OPENER.open(url, data, timeout=10) as answer:
        return json.load(answer)


def verified(simulator: SimulatorProcess, token: str, version: str) -> dict[str, Any]:
    """The claims of a token, checked with the keys that the tenant publishes for this version (`/v2.0` or "")."""
    metadata = fetch(f"{simulator.tenant['authority']}/{TENANT_ID}{version}/.well-known/openid-configuration")
    keys = jwt.PyJWKSet.from_dict(fetch(metadata["jwks_uri"]))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    audience = [AUDIENCE, APPLICATION_ID]
    return jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=metadata["issuer"])


@pytest.mark.parametrize(("version", "path"), [(1, ""), (2, "/v2.0")])
def test_a_token_is_verified_by_the_published_keys_and_issuer_of_its_version(
    regions: SimulatorProcess, version: int, path: str
) -> None:
    groups = ["11111111-2222-3333-4444-555555555555"]
    token = regions.token("ann", kind="user", roles=["Gateway.Call"], groups=groups, version=version)
    claims = verified(regions, token, path)
    assert (claims["tid"], claims["ver"]) == (TENANT_ID, f"{version}.0")
    assert (claims["roles"], claims["groups"]) == (["Gateway.Call"], groups)
    assert claims["preferred_username" if version == 2 else "upn"] == "ann@contoso.com"
    assert claims["aud"] == (APPLICATION_ID if version == 2 else AUDIENCE)
    assert ("azp" in claims, "appid" in claims) == (version == 2, version == 1)
    with pytest.raises(KeyError):  # the versions sign with different keys
        verified(regions, token, "" if path else "/v2.0")


def test_keys_roll_over_and_are_withdrawn(regions: SimulatorProcess) -> None:
    old = regions.token()
    regions.roll_keys()
    new = regions.token()
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    assert verified(regions, old, "")
    assert verified(regions, new, "")
    regions.roll_keys(withdraw=True)
    for token in (old, new):
        with pytest.raises(KeyError):
            verified(regions, token, "")


@pytest.mark.parametrize(
    ("path", "named"),
    [("oauth2/v2.0/token", {"scope": f"{AUDIENCE}/.default"}), ("oauth2/token", {"resource": AUDIENCE})],
)
def test_a_registered_client_gets_a_token_with_its_secret(
    regions: SimulatorProcess, path: str, named: dict[str, str]
) -> None:
    tenant = regions.tenant
    url = f"{tenant['authority']}/{TENANT_ID}/{path}"
    form = {"grant_type": "client_credentials", **tenant["clients"]["operator"], **named}
    answer = fetch(url, form)
    assert answer["token_type"] == "Bearer"
    claims = verified(regions, answer["access_token"], "")
    assert (claims["roles"], claims["appid"]) == (["Gateway.Admin"], form["client_id"])
    for wrong, status in (
        ({"client_secret": "x"}, 401),
        ({"client_id": "x"}, 401),
        ({"grant_type": "password"}, 400),
        ({"scope": "api://other/.default", "resource": "api://other"}, 400),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(url, form | wrong)
        assert refused.value.code == status
        assert "AADSTS" in refused.value.read().decode()


def test_a_managed_identity_gets_a_token_for_the_application(
    regions: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (regions.identity_environment | {"NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    with ManagedIdentityCredential(client_id="worker") as credential:
        claims = verified(regions, credential.get_token(f"{AUDIENCE}/.default").token, "")
        assert claims["xms_mirid"].endswith("/userAssignedIdentities/worker")
        azure = credential.get_token("https://cognitiveservices.azure.com/.default").token
    assert azure.count(".") == 0


def test_the_tenant_can_fail_and_knows_no_other(regions: SimulatorProcess) -> None:
    url = f"{regions.tenant['authority']}/{TENANT_ID}/discovery/v2.0/keys"
    fetch(url)
    assert regions.key_reads() == 1
    with pytest.raises(urllib.error.HTTPError, match="400"):
        fetch(url.replace(TENANT_ID, "common"))
    regions.set_tenant(failing_status=503)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        fetch(url)
    regions.set_tenant()
    assert fetch(url)["keys"][0]["kty"] == "RSA"


REDIRECT = "http://127.0.0.1:7071/gateway/"
VERIFIER = "a-verifier-of-the-test-with-at-least-43-characters"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ORIGIN = {"origin": "http://127.0.0.1:7071"}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def answered(url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Any:
    """Status, headers and body, also of a refusal or a redirection."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with opener.open(urllib.request.Request(url, data, headers or {}), timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def authorization(simulator: SimulatorProcess, **changed: str) -> str:
    tenant = simulator.tenant
    asked = {
        "client_id": tenant["page_client_id"],
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "scope": f"{AUDIENCE}/.default offline_access",
        "state": "a state",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    query = urllib.parse.urlencode(asked | changed)
    return f"{tenant['authority']}/{TENANT_ID}/oauth2/v2.0/authorize?{query}"


def code_of(simulator: SimulatorProcess, name: str = "ada.admin", **changed: str) -> dict[str, str]:
    """The answer that the page gets back in its address."""
    status, headers, _ = answered(authorization(simulator, **changed), {"user": name})
    assert status == 302
    back = urllib.parse.urlsplit(headers["location"])
    return dict(urllib.parse.parse_qsl(back.query or back.fragment))


def redeemed(simulator: SimulatorProcess, headers: dict[str, str] = ORIGIN, **changed: str) -> Any:
    tenant = simulator.tenant
    form = {
        "grant_type": "authorization_code",
        "client_id": tenant["page_client_id"],
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
    }
    status, answer, body = answered(f"{tenant['authority']}/{TENANT_ID}/oauth2/v2.0/token", form | changed, headers)
    content = json.loads(body)
    assert answer["access-control-allow-origin"] == "*"
    return content if status == 200 else content["error_description"].partition(":")[0]


def test_somebody_signs_in_to_a_page_and_its_token_is_renewed(regions: SimulatorProcess) -> None:
    regions.add_person("ann", "Gateway.Call")
    status, _, form = answered(authorization(regions))
    assert status == 200
    assert b"ann@contoso.com" in form
    back = code_of(regions, "ann", response_mode="fragment")
    assert back["state"] == "a state"
    tokens = redeemed(regions, code=back["code"])
    claims = verified(regions, tokens["access_token"], "")
    assert (claims["roles"], claims["scp"], claims["upn"]) == (
        ["Gateway.Call"],
        "user_impersonation",
        "ann@contoso.com",
    )
    renewed = redeemed(regions, grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert verified(regions, renewed["access_token"], "")["oid"] == claims["oid"]
    regions.set_sign_ins(renews=False)
    assert redeemed(regions, grant_type="refresh_token", refresh_token=tokens["refresh_token"]) == "AADSTS50173"


def test_a_code_counts_once_in_time_for_its_page_and_its_verifier(regions: SimulatorProcess) -> None:
    code = code_of(regions)["code"]
    assert "access_token" in redeemed(regions, code=code)
    assert redeemed(regions, code=code) == "AADSTS54005"
    assert redeemed(regions, code=code_of(regions)["code"], code_verifier="x" * 43) == "AADSTS501481"
    assert redeemed(regions, code=code_of(regions)["code"], redirect_uri=REDIRECT + "x") == "AADSTS50011"
    assert redeemed(regions, {}, code=code_of(regions)["code"]) == "AADSTS9002327"
    assert redeemed(regions, code=code_of(regions)["code"], client_secret="x") == "AADSTS700025"
    regions.set_sign_ins(code_seconds=0)
    assert redeemed(regions, code=code_of(regions)["code"]) == "AADSTS70008"


def test_the_authorization_endpoint_refuses_what_entra_refuses(regions: SimulatorProcess) -> None:
    assert code_of(regions, "")["error"] == "access_denied"
    for changed, error in (
        ({"scope": "https://graph.microsoft.com/.default"}, "invalid_scope"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
    ):
        assert code_of(regions, **changed)["error"] == error
    for changed in ({"client_id": APPLICATION_ID}, {"redirect_uri": "https://evil.example/gateway/"}):
        assert answered(authorization(regions, **changed))[0] == 400
