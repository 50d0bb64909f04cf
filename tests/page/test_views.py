"""The rules of every view: names are text, nothing is wider than its window, no rule of accessibility is violated."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from shared.billing import call_report
from tests.harness.system import MANAGEMENT_KEY, System, chat_body, eventually
from tests.page.conftest import ON_ONE_EDGE, Visit

HOSTILE = "<img src=x onerror=alert(1)>"
TEXTS = Path(__file__).parents[2] / "shared" / "management" / "page" / "texts"
VIEWS = (
    *("overview", "consumers", "products", "teams", "access", "backends", "requests", "models", "capacity"),
    *("playground", "configuration", "alerts", "audit"),
)
WIDTHS = (360, 1600, 1280)
# Returns what it is given if nothing is wider than its place; on a narrow screen tables may be, which scroll then.
FITS = """given => {
    const wide = one => one.scrollWidth > one.clientWidth + 1;
    const tables = innerWidth < 1280 ? [] : document.querySelectorAll('.scroller');
    const found = [document.documentElement, ...tables].filter(wide);
    return found.length ? [...given, ...found.map(one => `${one.ariaLabel} ${one.scrollWidth}`)] : given;
}"""


def fits(visit: Visit, where: list[Any]) -> bool:
    return bool(visit.page.evaluate(FITS, where) == where)


@ON_ONE_EDGE
def test_every_name_of_an_answer_is_text(visit: Visit, gateway: System) -> None:
    """The gateway refuses such names of regions and teams, so they are planted in its answers on their way."""
    gateway.chat()
    eventually(lambda: gateway.get("/gateway/requests").json()["data"])
    names = {
        "name",
        "region",
        "model",
        "team",
        "product",
        "backend",
        "deployment",
        "reason",
        "about",
        "message",
        "host",
    }
    names |= {"actor", "object", "address", "note", "by", "display", "code", "source", "instance", "document"}

    def planted(value: Any) -> Any:
        if isinstance(value, list):
            return [planted(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {
            key: HOSTILE if key in names and isinstance(inner, str) else planted(inner) for key, inner in value.items()
        }

    def plant(route: Route) -> None:
        answer = route.fetch()
        if answer.headers.get("content-type", "").startswith("application/json"):
            route.fulfill(response=answer, json=planted(answer.json()))
        else:
            route.fulfill(response=answer)

    visit.sign_in()
    visit.page.route(re.compile("/gateway/(?!page/)(?!backends/events)"), plant)
    visit.page.route("**/gateway/backends/events", lambda route: route.abort())
    visit.expected = "ERR_FAILED"
    call, consumer = gateway.get("/gateway/requests").json()["data"][0]["id"], gateway.key.split("_")[1]
    one = (f"consumer&id={consumer}", f"requests&id={call}", f"requests&consumer={consumer}", "teams&id=sales")
    for query in (*VIEWS, *one):
        visit.show(f"?view={query}")
        visit.page.get_by_role("heading", level=1).wait_for()
        visit.settle()
        assert visit.page.locator("img").count() == 0, query
    visit.show("?view=consumers")
    expect(visit.page.get_by_role("link", name=HOSTILE).first).to_be_visible()
    visit.page.unroute_all(behavior="ignoreErrors")


@ON_ONE_EDGE
@pytest.mark.parametrize(("language", "heading"), [("en-GB", "Configuration"), ("zh-TW", "設定")])
def test_every_view_is_accessible_and_fits_its_window(
    visit: Visit, gateway: System, language: str, heading: str
) -> None:
    key = gateway.make_key(f"a consumer with quite a long name, seen in {language}")
    gateway.post("/v1/chat/completions", chat_body(), key=key)
    consumer = key.split("_")[1]
    visit.page.add_init_script(f"try {{ localStorage.setItem('tollgate.language', '{language}') }} catch {{}}")
    visit.open()
    visit.page.locator("input[type=password]").fill(MANAGEMENT_KEY)
    assert visit.violations() == []
    visit.page.locator("form button[type=submit]").click()
    visit.page.get_by_role("navigation").first.wait_for()
    for query in (*VIEWS, f"consumer&id={consumer}", "teams&id=research"):
        visit.show(f"?view={query}")
        visit.page.get_by_role("heading", level=1).wait_for()
        visit.settle()
        for width in WIDTHS:
            visit.page.set_viewport_size({"width": width, "height": 900})
            eventually(partial(fits, visit, [query, width]))
        if language == "en-GB":
            assert visit.violations() == [], query
        if query == "configuration":
            expect(visit.page.get_by_role("heading", level=1)).to_have_text(heading)


@ON_ONE_EDGE
@pytest.mark.parametrize(
    ("language", "menu", "view", "end"),
    [("en-GB", "Menu", "Models", "Sign out"), ("zh-TW", "選單", "模型", "登出")],
)
def test_on_a_narrow_screen_the_menu_is_folded_and_all_of_it_is_reached_by_keyboard(
    visit: Visit, gateway: System, language: str, menu: str, view: str, end: str
) -> None:
    page = visit.page
    visit.sign_in(query="?view=audit")
    page.evaluate("to => localStorage.setItem('tollgate.language', to)", language)
    page.evaluate("dispatchEvent(new Event('tollgate:preferred'))")
    button, links = (
        page.get_by_role("button", name=menu, exact=True),
        page.get_by_role("navigation").first.get_by_role("link"),
    )
    leave = page.get_by_role("button", name=end, exact=True)
    expect(button).to_have_count(0)  # there is room
    expect(links).to_have_count(len(VIEWS))
    page.set_viewport_size({"width": 360, "height": 740})
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(leave).to_have_count(0)
    top = page.locator("header.top").bounding_box()
    assert top is not None
    assert top["height"] < 74  # a tenth
    assert visit.violations() == []
    button.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    for number in range(len(VIEWS)):
        page.keyboard.press("Tab")
        expect(links.nth(number)).to_be_focused()
    for _ in range(5):  # three preferences, whether to stay, the end
        page.keyboard.press("Tab")
    expect(leave).to_be_focused()
    eventually(partial(fits, visit, [language]))
    assert visit.violations() == []
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    expect(links).to_have_count(0)
    button.press("Enter")
    links.filter(has_text=re.compile(f"^{view}$")).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(view)
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_role("main")).to_be_focused()


@ON_ONE_EDGE
def test_dialogs_are_accessible_and_keep_what_was_typed(visit: Visit, gateway: System) -> None:
    consumer = gateway.make_key("with dialogs").split("_")[1]
    page = visit.page
    dialog = page.get_by_role("dialog")
    visit.sign_in()
    for query, button, field in (
        ("consumers", "Create a consumer", "Name"),
        (f"consumer&id={consumer}", "Change", "Tokens per minute"),
        ("teams", "Create a team", "Owners"),
        ("products", "Create a product", "Models"),
        ("backends", "Drain", "Reason"),
    ):
        visit.show(f"?view={query}")
        page.get_by_role("button", name=button).first.click()
        expect(dialog).to_have_attribute("aria-label", re.compile(button))
        visit.settle()
        dialog.get_by_label(field).first.fill("7")
        page.set_viewport_size({"width": 360, "height": 900})
        assert dialog.evaluate("one => one.scrollWidth <= one.clientWidth"), query
        assert visit.violations() == [], query
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        expect(dialog.get_by_role("alert")).to_contain_text("lose what you have typed")
        assert visit.violations() == [], query
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_count(0)
        expect(dialog.get_by_label(field).first).to_have_value("7")
        page.keyboard.press("Escape")
        dialog.get_by_role("button", name="Discard it").click()
        expect(dialog).to_have_count(0)
        page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("button", name="Drain").first.click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")  # nothing is lost
    expect(dialog).to_have_count(0)


def test_every_field_of_a_call_has_a_word() -> None:
    fields = {*call_report._COLUMNS, *call_report._AMOUNTS, *("team", "product", "model", "empty", "call")}
    assert {f"call.{name}" for name in fields} <= texts("en.js")


def test_both_languages_have_the_same_texts() -> None:
    assert texts("en.js") == texts("zh-TW.js")


def texts(file: str) -> set[str]:
    return set(re.findall(r'^  "([^"]+)":', (TEXTS / file).read_text(), re.MULTILINE))
