"""Signing in with Entra ID, and by the link of a local run, in a browser. The tenant is simulated."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from playwright.sync_api import expect

from local import sign_in_code
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import GatewayProcess
from tests.harness.system import MANAGEMENT_KEY, System, configuration
from tests.page.conftest import OWNERS, Visit


def test_operators_and_callers_sign_in_with_entra_and_see_what_their_roles_allow(visit: Visit, gateway: System) -> None:
    for team in ("research", "sales"):
        gateway.manage("POST", "/gateway/consumers", {"name": f"{team} on {gateway.edge}", "team": team})
    gateway.simulator.add_person("olga.owner", "Gateway.TeamOwner", groups=[OWNERS])
    requested: list[str] = []
    visit.page.on("request", lambda request: requested.append(request.url))
    for name, sees in (
        ("ada.admin", ["research", "sales", "Create a consumer"]),
        ("rita.reader", ["research", "sales"]),
        ("olga.owner", ["research", "Create a consumer"]),
    ):
        views = visit.page.get_by_role("navigation", name="Views").get_by_role("link")
        visit.sign_in_by_entra(name, "?view=consumers&name=" + gateway.edge)
        expect(visit.page.locator(".who")).to_contain_text(name)
        assert visit.page.url.endswith("?view=consumers&name=" + gateway.edge)  # where one wanted to go
        expect(visit.page.get_by_role("link", name="research on")).to_be_visible()
        assert ("Overview" in views.all_inner_texts()) == (name != "olga.owner")  # who reads no usage of all
        assert visit.page.get_by_role("link", name="sales on").count() == ("sales" in sees)
        assert visit.page.get_by_role("button", name="Create a consumer").count() == ("Create a consumer" in sees)
        assert "eyJ" not in visit.kept()
        visit.page.get_by_role("button", name="Sign out").click()
        expect(visit.page.get_by_role("button", name="Continue with Entra ID")).to_be_visible()
    visit.sign_in_by_entra("carl.caller")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("My usage")
    expect(visit.page.get_by_text("30,000 tokens per minute")).to_be_visible()
    assert visit.page.get_by_role("link", name="Consumers").count() == 0
    at_gateway = [url for url in requested if url.startswith(gateway.url)]
    assert not [
        url for url in at_gateway if re.search("eyJ|code=[^&]|refresh_token|code_verifier", url.partition("#")[0])
    ]


def test_a_caller_by_entra_asks_for_a_higher_limit_than_its_rule_grants(visit: Visit, gateway: System) -> None:
    person = f"paula.{gateway.edge}"
    gateway.simulator.add_person(person, "Gateway.Call")
    requested: list[str] = []
    visit.page.on("request", lambda request: requested.append(request.url))
    visit.open()
    visit.page.get_by_role("button", name="Continue with Entra ID").wait_for()
    assert not [url for url in requested if "oauth4webapi" in url]  # the library comes when somebody needs it
    visit.sign_in_by_entra(person)
    assert [url for url in requested if "oauth4webapi" in url]
    visit.go("Ask for more")
    visit.page.get_by_label("Wish").select_option("tokens_per_minute")
    visit.page.get_by_label("Wanted").fill("40000")
    visit.page.get_by_label("Reason").fill("more colleagues")
    visit.page.get_by_role("button", name="Send the request").click()
    expect(visit.page.get_by_role("row", name="40,000")).to_contain_text("open")
    made = gateway.get("/gateway/requests-for-access?state=open").json()["data"]
    (one,) = [one for one in made if one["name"] == f"{person}@contoso.com"]
    assert gateway.manage("POST", f"/gateway/requests-for-access/{one['id']}/approve", {}).status == 200
    limits = gateway.get(f"/gateway/consumers/{one['consumer']}").json()["limits"]
    assert limits == {"tokens_per_minute": 40_000}


def test_what_goes_wrong_at_entra_is_said_in_words(visit: Visit, gateway: System) -> None:
    visit.expected = "400"
    page = visit.page
    alert = page.get_by_role("alert")
    visit.open()
    page.get_by_role("button", name="Continue with Entra ID").click()
    page.get_by_role("button", name="Cancel").click()
    expect(alert).to_contain_text("you did not consent. AADSTS65004")
    assert visit.violations() == []

    gateway.simulator.set_sign_ins(code_seconds=0)
    page.get_by_role("button", name="Continue with Entra ID").click()
    page.get_by_role("button", name="carl.caller").click()
    expect(alert).to_contain_text("AADSTS70008: The provided authorization code has expired")
    gateway.simulator.set_sign_ins()

    page.get_by_role("button", name="Continue with Entra ID").click()
    page.get_by_role("button", name="carl.caller").wait_for()
    visit.open("#code=somebody-elses&state=somebody-elses")
    expect(alert).to_contain_text("does not belong to a sign-in that was begun in this tab")
    assert "somebody" not in page.url
    visit.open("?again#code=somebody-elses&state=somebody-elses")  # nothing was begun
    expect(alert).to_contain_text("does not belong to a sign-in that was begun in this tab")
    page.reload()
    assert page.get_by_role("alert").count() == 0

    page.route("**/.well-known/openid-configuration", lambda route: route.abort())
    visit.expected = "Failed to load resource"
    page.get_by_role("button", name="Continue with Entra ID").click()
    expect(alert).to_contain_text("Entra ID does not answer")
    page.unroute("**/.well-known/openid-configuration")

    gateway.simulator.add_person("nobody", "Something.Else")
    page.get_by_role("button", name="Continue with Entra ID").click()
    page.get_by_role("button", name="nobody@contoso.com").click()
    expect(alert).to_contain_text("No rule of this gateway admits nobody@contoso.com")

    gateway.simulator.add_person("was.revoked", "Gateway.Call")
    claims = jwt.decode(gateway.simulator.token("was.revoked", kind="user"), options={"verify_signature": False})
    identity = f"/gateway/consumers/entra-{claims['tid']}-{claims['oid']}"
    revoked = {"name": f"was.revoked on {gateway.edge}", "state": "revoked"}
    assert gateway.manage("PUT", identity, revoked).status in (200, 201)
    page.get_by_role("button", name="Continue with Entra ID").click()
    page.get_by_role("button", name="was.revoked@contoso.com").click()
    expect(alert).to_contain_text("was revoked. Ask the gateway's operator.")


def test_a_token_is_renewed_in_silence_until_entra_ends_the_session(visit: Visit, gateway: System) -> None:
    visit.expected = "400"
    gateway.simulator.set_sign_ins(token_seconds=3600)
    renewals: list[str] = []
    visit.page.on("request", lambda one: renewals.append(str(one.post_data)) if "/token" in one.url else None)
    visit.page.clock.install()
    visit.sign_in_by_entra("ada.admin", "?view=audit")
    assert len(renewals) == 1
    visit.page.clock.fast_forward("58:30")
    visit.go("Consumers")
    expect(visit.page.get_by_role("searchbox")).to_be_visible()
    visit.go("Audit")
    visit.page.wait_for_load_state("networkidle")
    assert [("refresh_token" in one) for one in renewals] == [False, True]  # one, however many requests needed it
    gateway.simulator.set_sign_ins(renews=False)
    visit.page.clock.fast_forward("02:00:00")
    visit.page.get_by_role("link", name="Consumers").click()
    expect(visit.page.get_by_role("status")).to_have_text("Your session of Entra ID has ended. Sign in again.")
    assert visit.violations() == []
    assert "eyJ" not in visit.kept()


def test_two_tabs_have_sessions_of_their_own_and_one_remembers_if_it_is_asked_to(visit: Visit, gateway: System) -> None:
    visit.open()
    visit.page.get_by_label("Stay signed in").check()
    visit.page.get_by_role("button", name="Continue with Entra ID").click()
    visit.page.get_by_role("button", name="rita.reader").click()
    expect(visit.page.locator(".who")).to_contain_text("rita.reader")
    other = Visit(visit.page.context.new_page(), gateway)
    other.open()
    expect(other.page.get_by_role("button", name="Continue with Entra ID")).to_be_visible()
    other.sign_in_by_entra("carl.caller")
    visit.page.reload()
    expect(visit.page.locator(".who")).to_contain_text("rita.reader")
    assert "eyJ" not in other.kept()
    visit.page.get_by_role("button", name="Sign out").click()
    assert "eyJ" not in visit.kept()
    other.go("Playground")
    expect(other.page.locator(".who")).to_contain_text("carl.caller")
    other.assert_clean()


def test_only_a_gateway_with_a_page_application_lets_the_page_ask_another_host(
    visit: Visit, gateway: System, simulator: SimulatorProcess
) -> None:
    policy = gateway.get("/gateway/").headers["content-security-policy"]
    assert f"connect-src 'self' {simulator.tenant['authority']};" in policy
    visit.open()
    visit.expected = "Content Security Policy"
    with pytest.raises(Exception, match="Failed to fetch"):
        visit.page.evaluate(f"fetch('{simulator.regions['eastus2']}/')")


@pytest.fixture
def local_run(simulator: SimulatorProcess, azurite: Azurite, tmp_path: Path) -> Iterator[tuple[GatewayProcess, str]]:
    """A gateway as `make run` starts it, and the code of its link."""
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
        "GATEWAY_STORAGE": azurite.connection_string,
        "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
        "JAPAN_KEY": simulator.api_key,
        sign_in_code.FILE: os.fspath(tmp_path / "code"),
        **simulator.identity_environment,
    }
    with GatewayProcess("uvicorn", environ, app="local.gateway:app") as gateway:
        yield gateway, sign_in_code.make(tmp_path / "code")


# The Functions host runs the app as it is deployed, without the link.
@pytest.mark.parametrize("edge", ["uvicorn"], indirect=True, scope="session")
def test_the_link_of_a_local_run_signs_in_once(local_run: tuple[GatewayProcess, str], visit: Visit) -> None:
    gateway, code = local_run
    requested: list[str] = []
    visit.page.on("request", lambda request: requested.append(request.url.partition("#")[0]))
    visit.page.goto(f"{gateway.url}/gateway/?view=consumers#sign-in={code}")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Consumers and keys")
    assert visit.page.url == f"{gateway.url}/gateway/?view=consumers"
    assert code not in "".join(requested) + visit.kept()
    assert MANAGEMENT_KEY not in visit.kept()
    visit.page.get_by_label("Stay signed in").check()
    visit.page.reload()
    visit.page.get_by_role("button", name="Sign out").wait_for()
    visit.page.get_by_label("Stay signed in").uncheck()
    assert MANAGEMENT_KEY not in visit.kept()
    visit.expected = "401"
    visit.page.goto(f"{gateway.url}/gateway/#sign-in={code}")
    expect(visit.page.get_by_role("alert")).to_contain_text("This link has been used, or is too old.")
