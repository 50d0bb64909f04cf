"""The page in front of 10,000 consumers and a year of hours: lists come in pages, and the browser has little to do.

The tables are in memory, because the emulator takes minutes to be filled; the gateway and its HTTP are as ever."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import uvicorn
from playwright.sync_api import Browser, CDPSession, expect
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from local.processes import free_port
from shared.process.application import Application
from tests.harness import in_process
from tests.harness.in_process import Exchange, Tables
from tests.harness.system import MANAGEMENT_KEY, System, eventually
from tests.page import seeding
from tests.page.conftest import Visit

LONGEST = 1.0  # seconds of scripting
PATIENCE = 60_000  # milliseconds on a busy machine


async def _serve(port: int, servers: list[uvicorn.Server]) -> None:
    tables = Tables()
    await seeding.fill(tables)

    async def script(exchange: Exchange) -> None:
        exchange.answer(500, {})

    def edge(running: Application) -> object:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (await running.front.handle(Request(scope, receive)))(scope, receive, send)

        return app

    async with (
        in_process.backend("sweden", {"gpt-4o": "gpt-4o"}, script) as backend,
        in_process.gateway(tables, [backend], MANAGEMENT_KEY) as running,
    ):
        config = uvicorn.Config(edge(running), port=port, lifespan="off", log_level="warning")  # type: ignore[arg-type]
        servers.append(uvicorn.Server(config))
        await servers[0].serve()


@pytest.fixture(scope="module")
def large() -> Iterator[str]:
    """The address of a large gateway."""
    port, servers = free_port(), list[uvicorn.Server]()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(port, servers)))
    thread.start()
    eventually(lambda: bool(servers) and servers[0].started, 120.0)
    yield f"http://127.0.0.1:{port}"
    servers[0].should_exit = servers[0].force_exit = True
    thread.join(60)


def scripting(session: CDPSession) -> float:
    """Seconds that a tab has spent in scripts, as Chromium counts them since `Performance.enable`."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["ScriptDuration"])


def test_the_first_view_of_a_large_gateway_takes_less_than_a_second_of_scripting(browser: Browser, large: str) -> None:
    context = browser.new_context(locale="en-GB", viewport={"width": 1400, "height": 900})
    page = context.new_page()
    visit = Visit(page, cast("System", SimpleNamespace(url=large)))
    page.set_default_timeout(PATIENCE)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # not the time that other processes take
    visit.sign_in(query="?view=overview&period=year&by=key")
    lines = page.get_by_role("region", name="Usage by line").locator("tbody tr")
    expect(lines.first).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".u-wrap canvas")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("that are used most of 10,000")).to_be_visible(timeout=PATIENCE)
    assert lines.count() == 50
    first = scripting(session)
    print(f"scripting of the first view: {first:.3f} s")
    assert 0 < first < LONGEST
    visit.go("Consumers")
    rows = page.get_by_role("region", name="Consumers").locator("tbody tr")
    expect(rows).to_have_count(50, timeout=PATIENCE)
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_role("link", name="consumer 00050", exact=True)).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Search by name").fill("consumer 07777")
    expect(rows).to_have_count(1, timeout=PATIENCE)
    visit.assert_clean()
    context.close()
