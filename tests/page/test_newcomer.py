"""A newcomer's first hour, from the page alone: a key, its limit, calls, a region that breaks, and what that cost."""

from playwright.sync_api import expect

from tests.harness.system import System
from tests.page.conftest import Visit


def test_a_newcomer_makes_a_key_limits_it_calls_breaks_a_region_finds_the_call_and_sees_its_cost(
    visit: Visit, gateway: System
) -> None:
    page, model, name = visit.page, gateway.spare(), f"a newcomer on {gateway.edge}"
    dialog = page.get_by_role("dialog")
    visit.sign_in()

    visit.go("Consumers")
    page.get_by_role("button", name="Create a consumer").click()
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_role("button", name="Create a consumer").click()
    key = dialog.locator(".secret code").inner_text()
    dialog.get_by_role("button", name="Close").click()

    page.get_by_role("link", name=name).click()
    page.get_by_role("button", name="Change").click()
    dialog.get_by_label("Request quota").fill("50")
    dialog.get_by_label("Budget in USD").fill("20")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("50 requests per day")).to_be_visible()

    visit.go("Playground")
    page.get_by_label("Key to call with").fill(key)
    page.get_by_label("Model", exact=True).fill(model)
    page.get_by_label("Prompt").fill("Which region answers me?")
    page.get_by_role("button", name="Send").click()
    answer = page.locator("section.card")
    expect(answer.locator(".answer")).not_to_be_empty()
    region = answer.locator("div", has=page.get_by_text("Region", exact=True)).locator("dd").first.inner_text()

    visit.go("Routing")
    broken = page.get_by_label(f"Break {region}").first
    broken.select_option("fail")
    expect(broken).to_have_value("fail")

    expect(page.get_by_text("broken by you in the simulator").first).to_be_visible()

    visit.go("Playground")
    expect(page.get_by_label("Key to call with")).to_have_value(key)  # as it was left
    expect(page.get_by_label("Prompt")).to_have_value("Which region answers me?")
    attempts = answer.locator("div", has=page.get_by_text("Tries", exact=True)).locator("dd").first
    for _ in range(6):  # three regions take turns
        page.get_by_role("button", name="Send").click()
        expect(answer.locator(".answer")).not_to_be_empty()
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        if attempts.inner_text() == "2":
            break

    answer.get_by_role("link", name="Find this call").click()
    tries = page.locator("ol.tries li")
    expect(tries).to_have_count(2)
    expect(tries.first).to_contain_text("500")
    cost = page.locator("dl.facts div", has=page.get_by_text("Cost", exact=True)).locator("dd")
    expect(cost).to_contain_text("$0.0")

    visit.go("Routing")
    broken.select_option("")
    expect(page.get_by_text("broken by you in the simulator")).to_have_count(0)

    visit.go("Requests")
    page.get_by_label("Consumer").fill(name)
    page.get_by_label("Consumer").press("Enter")
    expect(page.get_by_role("button", name=f"Consumer: {name}")).to_be_visible()
    calls = page.get_by_role("region", name="Requests").locator("tbody tr").filter(has_text=name)
    expect(calls.filter(has_text="$0.0").nth(1)).to_be_visible(timeout=15_000)  # it looks through a whole day
