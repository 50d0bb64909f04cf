"""A real browser in front of a real gateway. An error on the console that no test expected, or a violation of its
Content-Security-Policy, fails the test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Edge
from tests.harness.system import MANAGEMENT_KEY, System, configuration
from tests.harness.system import system as start_system

AXE = Path(__file__).parents[2] / "local" / "page" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 30_000.0  # milliseconds
expect.set_options(timeout=PATIENCE)
# The page behaves the same on both edges.
ON_ONE_EDGE = pytest.mark.parametrize("edge", ["uvicorn"], indirect=True, scope="session")
OWNERS = "99999999-8888-7777-6666-555555555555"  # the group that owns the team `research`


@pytest.fixture(scope="session")
def patient_system(edge: Edge, emulator: Azurite, simulator: SimulatorProcess) -> Iterator[System]:
    """With the simulated tenant, a team that a group owns, and a product that anybody may ask for."""
    tenant = simulator.tenant
    entra = {
        "authority": tenant["authority"],
        "tenants": [tenant["id"]],
        "audiences": tenant["audiences"],
        "page_client_id": tenant["page_client_id"],
        "callers": [{"app_role": "Gateway.Call", "limits": {"tokens_per_minute": 30_000}}],
    }
    more = {"products": {"large": {}}, "teams": {"research": {"owners": [OWNERS]}, "sales": {}}}
    settings = configuration(simulator, entra=entra, **more)
    with start_system(edge, settings, simulator, emulator.connection_string) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


class Visit:
    """A window on the page of a gateway."""

    def __init__(self, page: Page, gateway: System) -> None:
        self.page = page
        self.gateway = gateway
        self.problems: list[str] = []
        self.expected = ""  # a part of the problems that the test provokes
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.gateway.url}/gateway/{query}")

    def sign_in(self, key: str = MANAGEMENT_KEY, query: str = "") -> None:
        self.open(query)
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self._signed_in()

    def sign_in_by_entra(self, name: str, query: str = "") -> None:
        """As a person whom the simulated tenant knows."""
        self.open(query)
        self.page.get_by_role("button", name="Continue with Entra ID").click()
        self.page.get_by_role("button", name=f"{name}@contoso.com").click()
        self._signed_in()

    def _signed_in(self) -> None:
        """Wait for what only those who are signed in see; on a narrow screen the end of the session is in the menu."""
        menu = self.page.get_by_role("button", name="Menu", exact=True)
        self.page.get_by_role("button", name="Sign out").or_(menu).wait_for()

    def kept(self) -> str:
        """Everything that the page has left in the browser: its storage, its address, its history's state."""
        expression = (
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), location.href, document.cookie].join()"
        )
        return str(self.page.evaluate(expression))

    def go(self, view: str) -> None:
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        self.page.get_by_role("heading", level=1, name=view).wait_for()

    def show(self, query: str) -> None:
        """Go to a view by its query, without loading the page again."""
        moved = "q => { history.pushState(null, '', q); dispatchEvent(new Event('tollgate:moved')) }"
        self.page.evaluate(moved, query)

    def violations(self) -> list[str]:
        """The rules of accessibility that what is shown violates, and those of contrast in the dark. The check is added
        past the page's own policy."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text())
        violations = self._violations({})
        swap = "to => { const of = document.documentElement.dataset, was = of.theme; of.theme = to; return was }"
        before = self.page.evaluate(swap, "dark")
        violations += self._violations({"runOnly": ["color-contrast"]})
        self.page.evaluate(swap, before)
        return violations

    def _violations(self, options: dict[str, Any]) -> list[str]:
        results = self.page.evaluate("o => axe.run(document, {resultTypes: ['violations'], ...o})", options)
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in results["violations"]]

    def settle(self) -> None:
        """Wait until nothing is on its way to the page any more."""
        expect(self.page.locator(".busy.on")).to_have_count(0)

    def assert_clean(self) -> None:
        left = [problem for problem in self.problems if not (self.expected and self.expected in problem)]
        assert left == []


@pytest.fixture
def visit(browser: Browser, gateway: System) -> Iterator[Visit]:
    context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin", viewport={"width": 1400, "height": 900})
    visit = Visit(context.new_page(), gateway)
    yield visit
    visit.assert_clean()
    context.close()


def spend(gateway: System, key: str, model: str = "gpt-4o") -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    assert gateway.post("/v1/chat/completions", body, key=key).status == 200
