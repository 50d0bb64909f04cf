"""The operators' views in a browser: what they show, what they change, and what they do when something is wrong."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Locator, expect

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import System, chat_body, configuration, eventually
from tests.harness.system import system as start_system
from tests.page.conftest import ON_ONE_EDGE, Visit

HOSTILE = "<img src=x onerror=alert(1)>"


class _Receiver(BaseHTTPRequestHandler):
    """Takes every alert."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def own_store() -> Iterator[Azurite]:
    with start_azurite() as running:
        yield running


@pytest.fixture(scope="module")
def own(edge: Edge, own_store: Azurite, simulator: SimulatorProcess, receiver: str) -> Iterator[System]:
    """A gateway on a store of its own, so that a test may change its configuration and stop its store."""
    settings = configuration(
        simulator,
        alerts={"webhooks": [{"kind": "generic", "url": receiver, "secret_env": "JAPAN_KEY"}]},
        limits={"defaults": {"budget_usd": 1000}},
    )
    with start_system(edge, settings, simulator, own_store.connection_string) as running:
        assert running.chat("no-such-model").status == 404  # is counted within ten seconds
        yield running


@pytest.fixture
def visiting(visit: Visit, own: System) -> Visit:
    """A window on that gateway."""
    visit.gateway = own
    return visit


def card(visit: Visit, name: str) -> Locator:
    return visit.page.locator("section.card", has=visit.page.get_by_role("heading", name=name, exact=True))


def test_a_region_that_is_broken_from_the_page_fails_over_before_ones_eyes_and_is_restored(
    visit: Visit, gateway: System
) -> None:
    model = gateway.spare()
    visit.sign_in(query="?view=backends")
    sweden = card(visit, "sweden")
    share = sweden.locator("dl div", has=visit.page.get_by_text("Tries of the last minute", exact=True)).locator("dd")
    expect(share).to_have_text("none")  # since the view was opened
    sweden.get_by_label("Break swedencentral").select_option("fail")
    expect(sweden.get_by_label("Break swedencentral")).to_have_value("fail")
    expect(sweden).to_contain_text("broken by you in the simulator fail: 500.")
    answers = [gateway.chat(model, content=f"Hello {number}") for number in range(8)]
    assert {answer.status for answer in answers} == {200}
    expect(share).to_contain_text("failed")
    happenings = visit.page.get_by_role("list", name="As it happens")
    expect(happenings.get_by_role("listitem").filter(has_text="Failover, try 2").first).to_be_visible()
    expect(
        happenings.get_by_role("listitem").filter(has_text="status 500").filter(has_text="sweden").first
    ).to_be_visible()
    assert visit.violations() == []
    sweden.get_by_label("Break swedencentral").select_option("")
    expect(sweden.get_by_text("broken by you")).to_have_count(0)
    expect(sweden.get_by_label("Break swedencentral")).to_have_value("")
    assert gateway.simulator.faults() == []
    happenings.get_by_role("link", name="Call").first.click()
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Request")
    visit.page.go_back()
    expect(happenings.get_by_role("listitem").filter(has_text="Failover, try 2").first).to_be_visible()  # kept


@pytest.mark.parametrize(
    ("language", "words"), [("en-GB", ("Refused", "unknown consumer")), ("zh-TW", ("已拒絕", "未知的使用者"))]
)
@ON_ONE_EDGE
def test_a_refused_call_appears_as_it_happens_with_its_consumer_and_code(
    visit: Visit, gateway: System, language: str, words: tuple[str, str]
) -> None:
    path, (refused, unknown) = "/v1/chat/completions", words
    key = gateway.make_key(f"{HOSTILE} {language}", models=("gpt-4o",))
    visit.sign_in(query="?view=backends")
    visit.page.evaluate("to => localStorage.setItem('tollgate.language', to)", language)
    visit.page.evaluate("dispatchEvent(new Event('tollgate:preferred'))")
    expect(visit.page.locator(".pool .card").first).to_be_visible()  # the stream has begun
    assert gateway.post(path, chat_body("gpt-5.4-mini"), key=key).status == 403
    assert gateway.post(path, chat_body(), key="tg_unknown").status == 401
    lines = visit.page.locator("ol.happenings li").filter(has_text=refused)
    known, other = lines.filter(has_text="gpt-5.4-mini"), lines.filter(has_text=unknown)
    expect(known).to_have_text(re.compile(rf"{re.escape(HOSTILE)} {language} .*403.*model_not_allowed.* ms"))
    expect(other).to_have_text(re.compile(r"401.*invalid_api_key.* ms"))
    expect(other.get_by_role("link")).to_have_count(0)  # no row of it is kept
    assert visit.page.locator("main img").count() == 0
    assert visit.violations() == []
    known.get_by_role("link", name=refused).press("Enter")
    expect(visit.page).to_have_url(re.compile("view=requests&id="))


@ON_ONE_EDGE
def test_a_flood_of_refused_calls_leaves_the_shares_of_the_backends(visit: Visit, gateway: System) -> None:
    path, meters = (
        "/v1/chat/completions",
        visit.page.locator(".pool").get_by_role("meter", name="Tries of the last minute"),
    )
    limited = gateway.make_key("flood", models=("gpt-4o",))
    visit.sign_in(query="?view=backends")
    expect(visit.page.locator(".pool .card").first).to_be_visible()  # the stream has begun
    assert gateway.post(path, chat_body("gpt-5.4-mini")).status == 200
    expect(meters.first).to_be_visible()
    for _ in range(310):
        assert gateway.post(path, chat_body(), key="tg_unknown").status == 401
    assert gateway.post(path, chat_body("gpt-5.4-mini"), key=limited).status == 403
    last = visit.page.locator("ol.happenings li").filter(has_text="model_not_allowed")
    expect(last).to_be_visible()  # and so the page has had all before it
    expect(meters.first).to_be_visible()


@ON_ONE_EDGE
def test_a_hidden_tab_asks_for_nothing_and_watches_nothing(visit: Visit, gateway: System) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.sign_in(query="?view=backends")
    expect(visit.page.get_by_text("Seen by the instance")).to_be_visible()
    hide = """hidden => {
        const get = () => hidden ? 'hidden' : 'visible';
        Object.defineProperty(document, 'visibilityState', {get, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    visit.page.evaluate(hide, True)
    for view in ("?view=backends", "?view=overview"):
        visit.show(view)
        visit.page.wait_for_timeout(400)
        visit.page.evaluate("performance.clearResourceTimings()")
    asked.clear()
    visit.page.evaluate("() => { Date.now = () => performance.timeOrigin + performance.now() + 3600e3 }")  # all is due
    visit.page.wait_for_timeout(2500)
    assert [url for url in asked if "/gateway/page/" not in url] == []
    visit.page.evaluate(hide, False)
    visit.page.wait_for_timeout(300)
    assert [url for url in asked if "/gateway/usage" in url]  # it looks as soon as it is seen again


def test_alerts_show_the_receivers_and_a_message_tries_one(visiting: Visit) -> None:
    visiting.sign_in(query="?view=alerts")
    expect(visiting.page.get_by_role("heading", name="Firing")).to_be_visible()
    row = visiting.page.get_by_role("row", name="alerts.webhooks[0]")
    row.get_by_role("button", name="Send a test to alerts.webhooks[0]").click()
    expect(row.get_by_text("accepted")).to_be_visible()
    sent = visiting.page.get_by_role("region", name="Sent").get_by_role("row")
    expect(sent.filter(has_text="Test alert").first).to_contain_text("accepted")
    assert visiting.violations() == []


def test_a_change_of_the_configuration_shows_its_difference_and_is_taken_back(visiting: Visit) -> None:
    page = visiting.page
    visiting.sign_in(query="?view=configuration")
    page.get_by_label("Section", exact=True).select_option("limits")
    editor = page.get_by_label("The section as JSON")
    editor.fill(json.dumps({"defaults": {"budget_usd": 2000}}, indent=2))
    difference = page.get_by_label("Difference")
    expect(difference.locator("del")).to_contain_text("1000")
    expect(difference.locator("ins")).to_contain_text("2000")
    page.get_by_label("Note").fill("more room")
    page.get_by_role("button", name="Apply").click()
    history = page.get_by_role("region", name="History").get_by_role("row")
    expect(history.filter(has_text="more room")).to_contain_text("in effect")
    page.get_by_role("button", name="Go back to the base document").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("ins")).to_contain_text("1000")
    assert visiting.violations() == []
    dialog.get_by_role("button", name="Go back to it").click()
    dialog.wait_for(state="hidden")
    expect(history.filter(has_text="rollback to the base document")).to_contain_text("in effect")


def test_budgets_prices_and_the_trail_of_a_consumer_are_shown(visiting: Visit, own: System) -> None:
    key = own.make_key(HOSTILE)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    # A test before this one may have left the limits in safe mode.
    eventually(lambda: own.post("/v1/chat/completions", body, key=key).status == 200, 20.0)
    counted = "/gateway/usage?by=code&code=model_not_found"
    eventually(lambda: own.get(counted).json()["total"]["refused"] > 0, 12.0)
    visiting.sign_in()
    budget = visiting.page.get_by_role("listitem").filter(has_text=HOSTILE)
    expect(budget).to_contain_text("$1,000.00")
    expect(visiting.page.get_by_role("region", name="Throttles by region").get_by_role("row")).to_have_count(6)
    expect(visiting.page.get_by_role("region", name="Refusals by code")).to_contain_text("model_not_found")
    visiting.go("Models")
    expect(visiting.page.get_by_role("row", name="gpt-4o ").first).to_contain_text("$2.50")
    own.manage("PATCH", f"/gateway/consumers/{key.split('_')[1]}", {"limits": {"budget_usd": 5}})
    visiting.page.goto(f"{own.url}/gateway/?view=consumer&id={key.split('_')[1]}")
    visiting.sign_in(query=f"?view=consumer&id={key.split('_')[1]}")
    trail = visiting.page.get_by_role("region", name="Audit")
    expect(trail.get_by_role("cell", name="consumer.update")).to_be_visible()
    assert visiting.page.locator("img").count() == 0


@ON_ONE_EDGE
def test_forms_say_what_is_configured_and_what_is_not(visiting: Visit, own: System) -> None:
    page, dialog = visiting.page, visiting.page.get_by_role("dialog")
    visiting.sign_in(query="?view=consumers")
    page.get_by_role("button", name="Create a consumer").click()
    expect(dialog).to_contain_text("Empty: US$1,000.00, the default of the configuration")
    expect(dialog).to_contain_text("Empty or 0: no limit")
    expect(dialog.get_by_label("Team").locator("option")).to_have_text(["none"])
    dialog.get_by_label("Name").fill("half typed")
    dialog.get_by_role("link", name="Teams").click()
    expect(dialog.get_by_role("alert")).to_contain_text("lose what you have typed")
    dialog.get_by_role("button", name="Discard it").click()
    expect(page.get_by_text("No teams yet.")).to_be_visible()
    page.get_by_role("button", name="Create a team").click()
    expect(dialog).to_contain_text("empty: administrators alone")


@ON_ONE_EDGE
def test_with_the_table_out_of_reach_the_page_says_so_and_goes_on_with_what_the_instance_knows(
    visiting: Visit, own: System, own_store: Azurite
) -> None:
    visiting.expected = "503"
    own.chat()
    visiting.sign_in(query="?view=backends")
    expect(card(visiting, "sweden")).to_be_visible()
    os.kill(own_store.pid, signal.SIGSTOP)
    try:
        expect(visiting.page.get_by_text("this is what the instance knows by itself")).to_be_visible(timeout=20_000)
        answer = own.chat()
        assert answer.status == 200
        happenings = visiting.page.get_by_role("list", name="As it happens")
        expect(happenings.get_by_role("link", name="Call").first).to_be_visible()
        visiting.go("Alerts")
        expect(visiting.page.get_by_text("these are the alerts of this instance alone")).to_be_visible(timeout=20_000)
        visiting.go("Consumers")
        expect(visiting.page.get_by_role("alert")).to_contain_text("The table is out of reach", timeout=20_000)
    finally:
        os.kill(own_store.pid, signal.SIGCONT)
    visiting.page.get_by_role("button", name="Try again").click()
    expect(visiting.page.get_by_role("region", name="Consumers").get_by_role("row").first).to_be_visible(timeout=20_000)
