"""The page in a browser: signing in, what is shown, and what it may never do."""

import gzip
import re

from playwright.sync_api import expect

from tests.harness.system import System, eventually
from tests.page.conftest import ON_ONE_EDGE, Visit, spend

HOSTILE = "<img src=x onerror=alert(1)>"


def test_the_management_key_opens_the_overview_and_a_wrong_one_says_so(visit: Visit) -> None:
    visit.expected = "401"
    visit.open()
    visit.page.get_by_label("Key", exact=True).fill("wrong")
    visit.page.get_by_role("button", name="Sign in").click()
    expect(visit.page.get_by_role("alert")).to_contain_text("This key is not known here")
    visit.sign_in()
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(visit.page.get_by_text("A reload signs you out.")).to_be_visible()


def test_a_credential_is_in_no_url_and_in_the_tabs_storage_only_where_asked(visit: Visit) -> None:
    visit.sign_in()
    stored = "() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), location.href].join()"
    assert "for tests" not in visit.page.evaluate(stored)
    visit.page.reload()
    expect(visit.page.get_by_text("a reload of the page signs you out")).to_be_visible()
    expect(visit.page.get_by_text("make link")).to_be_visible()
    visit.page.get_by_label("Stay signed in").check()
    visit.page.get_by_label("Key", exact=True).fill("the operator's, for tests: 0123456789")
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.get_by_role("button", name="Sign out").wait_for()
    visit.page.reload()
    visit.page.get_by_role("button", name="Sign out").wait_for()
    visit.page.get_by_label("Stay signed in").uncheck()
    assert "for tests" not in visit.page.evaluate(stored)
    visit.page.get_by_label("Stay signed in").check()
    visit.page.reload()
    visit.page.get_by_role("button", name="Sign out").click()
    assert "for tests" not in visit.page.evaluate(stored)
    visit.page.get_by_label("Key", exact=True).wait_for()


def test_names_are_shown_as_text_whatever_they_contain(visit: Visit, gateway: System) -> None:
    key = gateway.make_key(HOSTILE)
    spend(gateway, key)
    visit.sign_in(query="?view=overview&by=key")
    expect(visit.page.get_by_role("link", name=HOSTILE).first).to_be_visible()
    assert visit.page.locator("main img").count() == 0


def test_the_overview_shows_what_the_api_reports_and_filters_by_a_line(visit: Visit, gateway: System) -> None:
    key = gateway.make_key("charted")
    spend(gateway, key)
    spend(gateway, key, "gpt-5.4-mini")
    visit.sign_in(query=f"?view=overview&by=model&key={key.split('_')[1]}")
    rows = visit.page.get_by_role("region", name="Usage by line").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(visit.page.locator(".u-wrap canvas")).to_be_visible()
    visit.page.get_by_role("link", name="gpt-5.4-mini").last.click()
    expect(rows).to_have_count(1)
    assert "model=gpt-5.4-mini" in visit.page.url  # a view can be shared
    visit.page.go_back()
    expect(rows).to_have_count(2)
    expect(visit.page.get_by_role("button", name="Consumer: charted")).to_be_visible()
    visit.page.get_by_label("Show").select_option("classes")
    counted = f"/gateway/usage?by=model&key={key.split('_')[1]}"
    spend(gateway, key, "gpt-4o-mini")
    eventually(lambda: len(gateway.get(counted).json()["lines"]) == 3)
    visit.page.get_by_role("button", name="Refresh").click()
    expect(rows).to_have_count(3)
    used = gateway.get(counted).json()["total"]
    fresh, plain = used["input_tokens"] - used["cached_input_tokens"], used["output_tokens"] - used["reasoning_tokens"]
    words = f"Input, not cached {fresh}, Cached input {used['cached_input_tokens']}, Output without reasoning {plain}"
    expect(visit.page.get_by_role("img", name=f"Tokens by class: {words}")).to_be_visible()


@ON_ONE_EDGE
def test_no_two_marks_of_an_axis_have_the_same_label(visit: Visit) -> None:
    visit.open()
    marks = """async () => {
        const at = new URL('.', document.querySelector('script[type=module]').src);
        const { pieceName, pieces } = await import(at + 'period.js');
        const { ticks } = await import(at + 'format.js');
        const times = [['2026-11-28T14:00Z', 'hour'], ['2026-10-20T00:00Z', 'day'], ['2025-12-01T00:00Z', 'month']].map(
            ([since, every]) => pieces(since, '2026-11-29T14:30Z', every).slice(0, 300));
        const steps = [[0.0001, true], [0.02, true], [0.5, true], [200, true], [1, false], [500, false], [2e6, false]];
        return [...times.map(all => all.map(one => pieceName(one, all[1] - all[0]))),
            ...steps.map(([step, usd]) => [0, 1, 2, 3, 4, 5, 6, 7].map(n => ticks(step, usd)(n * step)))];
    }"""
    for labels in visit.page.evaluate(marks):
        assert len(set(labels)) == len(labels) > 1


def test_a_caller_sees_its_own_use_and_nothing_else(visit: Visit, gateway: System) -> None:
    fields = {"name": f"a caller on {gateway.edge}", "limits": {"tokens_per_minute": 50_000}}
    key = gateway.manage("POST", "/gateway/consumers", fields).json()["key"]
    spend(gateway, key)
    visit.sign_in(key)
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("My usage")
    expect(visit.page.get_by_role("cell", name="gpt-4o", exact=True)).to_be_visible()
    expect(visit.page.get_by_text("per minute")).to_be_visible()
    assert visit.page.get_by_role("link", name="Consumers").count() == 0


def test_the_first_view_is_small_and_needs_two_round_trips(gateway: System, visit: Visit) -> None:
    sizes: dict[str, int] = {}
    visit.page.on("response", lambda answer: sizes.update({answer.url: len(gzip.compress(answer.body()))}))
    visit.open()
    visit.page.get_by_label("Key", exact=True).wait_for()
    visit.page.wait_for_load_state("networkidle")
    assert 0 < sum(sizes.values()) < 150_000
    index = gateway.get("/gateway/").body.decode()
    loaded = {url for url in sizes if url.endswith((".js", ".mjs", ".css"))}
    named = {gateway.url + path for path in re.findall(r'"(/gateway/page/[^"]+)"', index)}
    assert loaded <= named  # nothing that only another file names


def test_files_are_kept_for_ever_and_the_page_itself_is_asked_for_again(gateway: System) -> None:
    index = gateway.get("/gateway/")
    assert index.headers["cache-control"] == "no-cache"
    policy = index.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    path = re.findall(r'"(/gateway/page/[^"]+/main.js)"', index.body.decode())[0]
    packed = gateway.gateway.request("GET", path, None, {"accept-encoding": "gzip"})
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["x-content-type-options"] == "nosniff"
    for wrong in (
        path.replace("main.js", "..%2f..%2fapi.py"),
        path.replace("main.js", "main.py"),
        "/gateway/page/0/main.js",
    ):
        assert gateway.get(wrong).status == 404


def test_a_wrong_section_of_the_configuration_is_refused_with_the_path_of_every_mistake(visit: Visit) -> None:
    visit.expected = "400"
    visit.sign_in(query="?view=configuration")
    visit.page.get_by_label("Section", exact=True).select_option("models")
    editor = visit.page.get_by_label("The section as JSON")
    editor.fill('{"gpt-4o": {"falbacks": ["gpt-4o-mini"], "hedge": "yes"}}')
    complaints = visit.page.get_by_role("alert").locator("li")
    expect(complaints).to_have_count(2)
    expect(visit.page.get_by_role("button", name="Apply")).to_have_count(0)
    editor.fill('{"gpt-4o": {"fallbacks": ["gpt-4o-mini"]}}')
    expect(visit.page.get_by_role("button", name="Apply")).to_be_visible()
    assert visit.violations() == []


def test_operators_see_the_models_and_when_they_end(visit: Visit) -> None:
    visit.sign_in(query="?view=models")
    row = visit.page.get_by_role("row", name="gpt-4o-prod").or_(visit.page.get_by_role("row", name="gpt-4o ")).first
    expect(row).to_contain_text("sweden")


def test_a_region_that_is_broken_is_seen_and_one_that_is_drained_returns(visit: Visit, gateway: System) -> None:
    visit.sign_in(query="?view=backends")
    card = visit.page.locator("section.card", has=visit.page.get_by_role("heading", name="virginia", exact=True))
    card.get_by_role("button", name="Drain").click()
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("maintenance")
    dialog.get_by_role("button", name="Drain").click()
    expect(card.get_by_text("drained")).to_be_visible()
    expect(card.get_by_text("maintenance")).to_be_visible()
    card.get_by_role("button", name="Restore").click()
    expect(card.get_by_text("drained")).to_have_count(0)
    model = gateway.spare()
    gateway.simulator.fault("status", status=500, deployment=model, times=60)
    for _ in range(12):
        gateway.chat(model)
    gateway.simulator.clear()
    again = card.filter(has_text="A call tries it again in")
    expect(again.get_by_role("row", name=model).get_by_text("ejected")).to_be_visible()
    left_out = visit.page.get_by_role("list", name="As it happens").get_by_role("listitem").filter(has_text="Left out")
    expect(left_out.filter(has_text="virginia").filter(has_text=model)).to_have_count(1)


def test_a_refused_call_is_found_with_its_reason_and_a_served_one_with_its_tries(visit: Visit, gateway: System) -> None:
    key = gateway.make_key("sought", models=("gpt-4o",))
    consumer = key.split("_")[1]
    spend(gateway, key)
    gateway.post("/v1/chat/completions", {"model": "gpt-5.4-mini", "messages": []}, key=key)
    listed = f"/gateway/requests?consumer={consumer}"
    eventually(
        lambda: 200 in [one["status"] for one in gateway.get(listed).json()["data"]]
    )  # a busy table takes its time
    visit.sign_in(query=f"?view=requests&consumer={consumer}")
    rows = visit.page.get_by_role("region", name="Requests").locator("tbody tr")
    expect(rows.filter(has_text="200")).to_have_count(1)
    assert visit.violations() == []
    visit.page.get_by_role("button", name="Find").click()
    expect(rows.get_by_role("link", name="sought").first).to_have_attribute(
        "href", re.compile(f"view=consumer&id={consumer}")
    )
    rows.filter(has_text="200").get_by_role("link").first.click()
    expect(visit.page.get_by_role("heading", name="Tries")).to_be_visible()
    expect(visit.page.locator("ol.tries li")).to_have_count(1)
    assert visit.violations() == []


def test_provisioned_capacity_is_planned_in_a_chart_and_a_table(visit: Visit, gateway: System) -> None:
    visit.sign_in()
    visit.go("Provisioned")
    visit.page.get_by_label("Model", exact=True).select_option("gpt-5-mini")
    visit.page.get_by_label("Requests per minute", exact=True).fill("200")
    asked = "requests_per_minute=200&input=1500&output=300&peak=3&model=gpt-5-mini"
    (plan,) = gateway.get(f"/gateway/provisioned?{asked}").json()["plans"]
    hourly = next(one for one in plan["payments"] if one["payment"] == "hourly")
    row = visit.page.get_by_role("region", name="Ways to pay").get_by_role("row", name="Units by the hour")
    expect(row).to_contain_text(f"{hourly['usd_per_month']:,.2f}")
    chart = visit.page.get_by_role("img", name=re.compile("USD per month by average requests per minute: By the token"))
    expect(chart).to_have_attribute("aria-label", re.compile(re.escape(f"{hourly['usd_per_month']:,.2f}")))
    expect(chart.locator("canvas")).to_be_visible()
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    assert chart.locator("canvas").evaluate(drawn) > 20
    assert "requests_per_minute=200" in visit.page.url
    assert visit.violations() == []
    visit.page.set_viewport_size({"width": 360, "height": 900})
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    eventually(lambda: bool(visit.page.evaluate(fits)))  # the chart follows
    visit.expected = "400"
    visit.page.get_by_label("Peak").fill("0.5")
    expect(visit.page.get_by_role("alert")).to_contain_text("peak: expected a number from 1")
