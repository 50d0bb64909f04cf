"""Callers ask for more in the page, operators decide there, and callers see what concerns them."""

import re

import pytest
from playwright.sync_api import expect

from tests.harness.system import System, chat_body, eventually
from tests.page.conftest import ON_ONE_EDGE, Visit

HOSTILE = "<img src=x onerror=alert(1)>"


def made(gateway: System, name: str) -> tuple[str, str]:
    """A consumer with a limit: its id and its key."""
    fields = {"name": f"{name} on {gateway.edge}", "limits": {"tokens_per_minute": 50_000}}
    one = gateway.manage("POST", "/gateway/consumers", fields).json()
    return str(one["id"]), str(one["key"])


def wish(gateway: System, key: str, reason: str, limit: int = 60_000) -> None:
    body = {"limits": {"tokens_per_minute": limit}, "reason": reason}
    assert gateway.post("/gateway/requests-for-access", body, key=key).status == 201


def test_a_caller_asks_an_operator_approves_and_the_caller_sees_it(visit: Visit, gateway: System) -> None:
    consumer, key = made(gateway, HOSTILE)
    page, operator = visit.page, Visit(visit.page.context.new_page(), gateway)
    visit.sign_in(key)
    visit.go("Ask for more")
    page.get_by_label("Wish").select_option("tokens_per_minute")
    page.get_by_label("Wanted").fill("40000")
    page.get_by_label("Reason").fill(HOSTILE)
    visit.expected = "400"
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_role("alert")).to_contain_text("expected more than the current 50000")
    page.get_by_label("Wanted").fill("90000")
    page.get_by_label("Wanted").press("Tab")
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Enter")  # by keyboard alone
    row = page.get_by_role("row", name="90,000")
    expect(row).to_contain_text("open")
    expect(row).to_contain_text(HOSTILE)
    page.get_by_label("Wish").select_option("product:large")
    page.get_by_label("Reason").fill("everything")
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_role("row", name="large")).to_contain_text("open")

    operator.sign_in(query="?view=access")
    mine = operator.page.get_by_role("row", name=f"{HOSTILE} on {gateway.edge}")
    expect(mine).to_have_count(2)
    mine.filter(has_text="90,000").get_by_role("button", name="Approve").click()
    dialog = operator.page.get_by_role("dialog")
    expect(dialog).to_contain_text(HOSTILE)
    dialog.get_by_label("Answer").fill("until June")
    assert operator.violations() == []
    dialog.get_by_role("button", name="Approve").click()
    dialog.wait_for(state="hidden")
    expect(mine).to_have_count(1)
    mine.get_by_role("button", name="Decline").click()
    dialog.get_by_label("Answer").fill("no")
    dialog.get_by_label("Answer").press("Enter")
    expect(mine).to_have_count(0)
    operator.page.get_by_label("State").select_option("approved")
    expect(mine).to_contain_text("management-key")
    assert operator.page.locator("main img").count() == 0
    operator.assert_clean()

    page.reload()
    visit.sign_in(key, "?view=own-access")
    expect(page.get_by_role("row", name="90,000")).to_contain_text("until June")
    expect(page.get_by_role("row", name="large")).to_contain_text("declined")
    assert page.locator("main img").count() == 0
    assert gateway.manage("GET", f"/gateway/consumers/{consumer}").json()["limits"]["tokens_per_minute"] == 90_000


def test_a_request_that_another_operator_decided_says_so(visit: Visit, gateway: System) -> None:
    consumer, key = made(gateway, "decided elsewhere")
    wish(gateway, key, "please")
    visit.expected = "409"
    visit.sign_in(query="?view=access")
    row = visit.page.get_by_role("row", name=f"decided elsewhere on {gateway.edge}")
    row.get_by_role("button", name="Approve").click()
    assert gateway.manage("POST", f"/gateway/requests-for-access/{consumer}.1/decline", {"reason": "no"}).status == 200
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Approve").click()
    expect(dialog.get_by_role("alert")).to_contain_text("was declined by management-key")
    visit.page.keyboard.press("Escape")
    expect(row).to_have_count(0)


def test_a_caller_sees_its_models_prices_and_ready_calls_with_its_key_or_its_token(
    visit: Visit, gateway: System
) -> None:
    key = gateway.make_key(f"with models on {gateway.edge}", models=("gpt-4o", "text-embedding-3-small"))
    visit.sign_in(key)
    visit.go("Models and prices")
    rows = visit.page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="gpt-4o")).to_contain_text("US$2.50")
    expect(rows.filter(has_text="gpt-4o")).to_contain_text(re.compile(r"\d (\(in \d+ days|\(ended \d+ days ago)\)"))
    assert visit.violations() == []
    visit.page.get_by_role("button", name="Sign out").click()
    visit.sign_in_by_entra("carl.caller")
    expect(visit.page.get_by_text("There is no key to keep or to rotate.")).to_be_visible()
    for name, word in (("curl", "az account get-access-token"), ("AzureOpenAI", "azure_ad_token_provider=provider")):
        visit.page.get_by_role("tab", name=name, exact=True).click()
        expect(visit.page.get_by_role("tabpanel")).to_contain_text(word)
    assert visit.violations() == []


@ON_ONE_EDGE
@pytest.mark.parametrize(("width", "language"), [(360, "zh-TW"), (1600, "en")])
def test_views_of_callers_and_of_access_fit_in_both_languages(
    visit: Visit, gateway: System, width: int, language: str
) -> None:
    name = f"{width} wide {HOSTILE}"
    _, key = made(gateway, name)
    eventually(lambda: gateway.post("/v1/chat/completions", chat_body(), key=key).status == 200)
    wish(gateway, key, HOSTILE * 5)
    visit.page.set_viewport_size({"width": width, "height": 900})
    words = {"mine": ("My usage", "我的用量"), "own-models": ("Models and prices", "模型與價格")}
    words |= {"own-access": ("Ask for more", "申請更多")}
    visit.sign_in(key)
    visit.page.evaluate("l => localStorage.setItem('tollgate.language', l)", language)
    for view, titles in words.items():
        show(visit, view)
        if view == "mine":
            expect(visit.page.locator(".u-wrap canvas")).to_be_visible()
        expect(visit.page.get_by_role("heading", level=1)).to_have_text(titles[language == "zh-TW"])
        expect(visit.page.locator("tbody tr").first).to_be_visible()
        assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), view
        assert visit.violations() == [], view
    visit.page.evaluate("localStorage.clear()")
    visit.sign_in(query="?view=access")
    expect(visit.page.get_by_role("row", name=f"{name} on {gateway.edge}")).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert visit.violations() == []
    assert visit.page.locator("main img").count() == 0


def show(visit: Visit, view: str) -> None:
    visit.page.evaluate(
        "q => { history.pushState(null, '', q); dispatchEvent(new Event('tollgate:moved')); "
        "dispatchEvent(new Event('tollgate:preferred')) }",
        f"?view={view}",
    )
