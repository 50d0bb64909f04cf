"""`make screenshots`: renews the pictures of the page in docs/pictures/, from a gateway with simulated regions."""

import asyncio
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from shared.storage.tables import TablesStore
from shared.usage.folds import Lines
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.system import MANAGEMENT_KEY, System, configuration, simulated_regions, system
from tests.page import seeding

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
# Consumer -> its budget in USD a month, and the calls of an hour of work by model.
TEAMS: dict[str, tuple[float, dict[str, int]]] = {
    "shop": (900.0, {"gpt-5.4-mini": 260, "gpt-4o": 20}),
    "research": (2500.0, {"gpt-5.4": 70}),
    "support": (700.0, {"gpt-4o": 60, "gpt-5.4-mini": 40}),
}
SHOWN = ("gpt-4o", "gpt-5.4", "gpt-5.4-mini", "text-embedding-3-small")
PLACES = (("sweden", "swedencentral"), ("virginia", "eastus2"), ("japan", "japaneast"))
DAYS = 40


def settings(simulator: SimulatorProcess) -> dict[str, Any]:
    """Three regions with a few models: what fits a picture."""
    document = configuration(simulator)
    backends = [
        {**backend, "models": {name: backend["models"][name] for name in SHOWN}} for backend in document["backends"][:3]
    ]
    return {"backends": backends}


def past(ids: dict[str, str], storage: str) -> None:
    """Weeks of work, less at night and at weekends."""
    rng = random.Random(7)

    def lines(hour: int) -> Lines:
        moment = datetime.fromtimestamp(hour * 3600, UTC)
        share = (1.0 if 6 <= moment.hour < 18 else 0.15) * (1.0 if moment.weekday() < 5 else 0.2)
        hour_lines: Lines = {}
        for name, (_, models) in TEAMS.items():
            for model, calls in models.items():
                backend, region = rng.choice(PLACES)
                number = max(1, round(calls * share * rng.uniform(0.7, 1.3)))
                hour_lines |= [seeding.line(ids[name], model, backend, region, number, rng)]
        return hour_lines

    async def write() -> None:
        store = TablesStore.from_connection_string(storage, budget=30.0)
        await seeding.write_past(store, DAYS * 24, lines)
        await store.close()

    asyncio.run(write())


def spend(gateway: System, keys: dict[str, str], rounds: int) -> None:
    for number in range(rounds):
        for name, (_, models) in TEAMS.items():
            messages = [{"role": "user", "content": "What can you tell me about the weather? " * (number % 4 + 1)}]
            body = {"model": next(iter(models)), "messages": messages}
            gateway.post("/v1/chat/completions", body, key=keys[name])


def take(page: Page, gateway: System, keys: dict[str, str]) -> None:
    """The overview of a month, then a region that breaks."""
    page.set_default_timeout(60_000)  # on a busy machine
    page.goto(f"{gateway.url}/gateway/?view=overview&period=month&by=model")
    page.get_by_label("Key", exact=True).fill(MANAGEMENT_KEY)
    page.get_by_role("button", name="Sign in").click()
    page.locator(".u-wrap canvas").wait_for()
    page.get_by_role("region", name="Usage by line").wait_for()
    page.get_by_text("No call was refused").wait_for()
    page.screenshot(path=PICTURES / "overview.png")
    page.get_by_role("link", name="Routing").click()
    page.get_by_label("Break swedencentral").wait_for()
    spend(gateway, keys, 12)
    page.get_by_label("Break swedencentral").select_option("fail")
    page.wait_for_timeout(1500)  # the fault strikes
    spend(gateway, keys, 3)
    page.wait_for_timeout(4000)  # two reports of the pool
    page.screenshot(path=PICTURES / "backends.png", full_page=True)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        azurite() as store,
        SimulatorProcess(simulated_regions()) as simulator,
        system("uvicorn", settings(simulator), simulator, store.connection_string) as gateway,
    ):
        fields = {name: {"name": name, "limits": {"budget_usd": budget}} for name, (budget, _) in TEAMS.items()}
        made = {name: gateway.manage("POST", "/gateway/consumers", body).json() for name, body in fields.items()}
        past({name: one["id"] for name, one in made.items()}, store.connection_string)
        with sync_playwright() as playwright:
            path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 960}, locale="en-US")
            take(page, gateway, {name: one["key"] for name, one in made.items()})
            browser.close()


if __name__ == "__main__":
    main()
