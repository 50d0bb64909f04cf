"""`make screenshots`: renews the pictures of the page in docs/pictures/, from a gateway with simulated regions."""

import os
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.system import MANAGEMENT_KEY, System, configuration, simulated_regions, system

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
CALLS = {"shop": ("gpt-5.4-mini", 9), "research": ("gpt-5.4", 5), "support": ("gpt-4o", 6)}
SHOWN = ("gpt-4o", "gpt-5.4", "gpt-5.4-mini", "text-embedding-3-small")


def settings(simulator: SimulatorProcess) -> dict[str, object]:
    """Three regions with a few models: what fits a picture."""
    document = configuration(simulator)
    backends = [
        {**backend, "models": {name: backend["models"][name] for name in SHOWN}} for backend in document["backends"][:3]
    ]
    return {"backends": backends}


def spend(gateway: System) -> None:
    for name, (model, calls) in CALLS.items():
        key = gateway.make_key(name)
        for number in range(calls):
            messages = [{"role": "user", "content": "What can you tell me about the weather? " * (number + 1)}]
            gateway.post("/v1/chat/completions", {"model": model, "messages": messages}, key=key)
        gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "wind " * 400}, key=key)


def take(page: Page, gateway: System) -> None:
    page.goto(f"{gateway.url}/gateway/")
    page.get_by_label("Key", exact=True).fill(MANAGEMENT_KEY)
    page.get_by_role("button", name="Sign in").click()
    for view, query in (("overview", "period=week&by=model"), ("backends", "")):
        page.evaluate(
            "q => { history.pushState(null, '', q); dispatchEvent(new Event('tollgate:moved')) }",
            f"?view={view}&{query}",
        )
        page.wait_for_timeout(2500)
        page.screenshot(path=PICTURES / f"{view}.png")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        azurite() as store,
        SimulatorProcess(simulated_regions()) as simulator,
        system("uvicorn", settings(simulator), simulator, store.connection_string) as gateway,
    ):
        spend(gateway)
        with sync_playwright() as playwright:
            path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            take(browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-US"), gateway)
            browser.close()


if __name__ == "__main__":
    main()
