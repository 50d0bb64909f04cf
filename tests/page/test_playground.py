"""Calls from the page: side by side, to chosen places, and by the API of each model."""

from playwright.sync_api import Locator, expect

from tests.harness.system import System, eventually
from tests.page.conftest import ON_ONE_EDGE, Visit


def test_a_caller_tries_two_models_side_by_side(visit: Visit, gateway: System) -> None:
    visit.sign_in(gateway.make_key("playing"))
    visit.go("Playground")
    expect(visit.page.locator("#models option[value=claude-sonnet-5-5]")).to_have_count(1)
    visit.page.get_by_role("button", name="Another one beside it").click()
    visit.page.get_by_label("Model", exact=True).fill("gpt-4o")
    visit.page.get_by_label("Second model").fill("claude-sonnet-5-5")
    visit.page.get_by_label("Prompt").fill("Hello")
    visit.page.set_viewport_size({"width": 1400, "height": 600})
    visit.page.get_by_role("button", name="Send").click()
    for model in ("gpt-4o", "claude-sonnet-5-5"):
        answer = visit.page.locator("section.card", has=visit.page.get_by_role("heading", name=model, exact=True))
        expect(answer.locator(".answer")).not_to_be_empty()
        expect(answer.locator(".answer")).to_be_in_viewport()
        expect(answer.get_by_text("Tries", exact=True)).to_be_visible()
    assert visit.violations() == []


def test_the_playground_calls_claude_by_its_own_api_and_shows_what_it_costs(visit: Visit, gateway: System) -> None:
    page, model = visit.page, "claude-sonnet-5-5"
    visit.sign_in()
    visit.go("Playground")
    expect(page.locator(f"#models option[value={model}]")).to_have_count(1)
    page.get_by_label("Key to call with").fill(gateway.make_key("plays with Claude"))
    page.get_by_label("Model", exact=True).fill(model)
    page.get_by_label("System text").fill("Be brief.")
    page.get_by_label("Prompt").fill("Hello")
    answer, texts = page.locator("section.card"), set[str]()

    def fact(name: str) -> Locator:
        return answer.locator("div", has=page.get_by_text(name, exact=True)).locator("dd").first

    for streamed in (True, False):
        gateway.simulator.clear()
        page.get_by_label("Stream").set_checked(streamed)
        page.get_by_role("button", name="Send").click()
        eventually(lambda: bool(gateway.simulator.log()["requests"]))
        expect(fact("Output tokens")).to_have_text("32")
        [entry] = gateway.simulator.log()["requests"]
        assert (entry["path"], entry["stream"]) == ("/anthropic/v1/messages", streamed)
        expect(fact("Input tokens")).to_have_text(str(entry["input_tokens"]))
        texts.add(answer.locator(".answer").inner_text())
    expect(fact("Cost")).to_contain_text("$0.0")  # asked for when the call is on record
    assert len(texts) == 1
    assert visit.violations() == []


@ON_ONE_EDGE
def test_a_key_that_may_choose_compares_two_regions_and_another_is_offered_none(visit: Visit, gateway: System) -> None:
    page = visit.page
    fields = {"name": f"chooses on {gateway.edge}", "pin": True, "regions": ["swedencentral", "eastus2"]}
    chooser = gateway.manage("POST", "/gateway/consumers", fields).json()["key"]
    visit.sign_in(query="?view=playground")
    page.get_by_label("Key to call with").fill(gateway.make_key("may not choose", models=("gpt-4o-mini",)))
    page.get_by_label("Model", exact=True).fill("gpt-4o")
    expect(page.get_by_text("lacks the permission pin")).to_be_visible()
    expect(page.get_by_text("may not use this model")).to_be_visible()
    expect(page.locator("#models option")).to_have_count(1)
    expect(page.get_by_label("Backend", exact=True).locator("option")).to_have_text(["any"])
    page.get_by_label("Key to call with").fill(chooser)
    page.get_by_label("Prompt").fill("Hello")
    places = page.get_by_label("Backend", exact=True)
    expect(places.locator("option")).to_have_text(["any", "sweden (swedencentral)", "virginia (eastus2)"])
    places.select_option("sweden")
    page.get_by_role("button", name="Another one beside it").click()
    page.get_by_label("Second backend").select_option("virginia")
    assert visit.violations() == []
    page.get_by_role("button", name="Send").click()
    for backend, region in (("sweden", "swedencentral"), ("virginia", "eastus2")):
        answer = page.locator("section.card", has=page.get_by_role("heading", name=f"gpt-4o · {backend}"))
        expect(answer.locator(".answer")).not_to_be_empty()
        expect(answer.locator("dl").first).to_contain_text(region)
    assert chooser not in visit.kept()
    visit.expected = "401"
    page.get_by_label("Key to call with").fill("wrong")
    page.get_by_label("Prompt").focus()
    expect(page.get_by_text("Invalid API key")).to_be_visible()
