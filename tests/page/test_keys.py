"""Consumers, keys and products in a browser: made, limited, rotated and revoked."""

import re

import pytest
from playwright.sync_api import expect

from tests.harness.system import System, eventually
from tests.page.conftest import ON_ONE_EDGE, Visit, spend

HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_key_that_is_made_in_the_page_calls_the_gateway_and_a_limit_that_is_changed_there_holds(
    visit: Visit, gateway: System
) -> None:
    name = f"made in the page on {gateway.edge}"
    visit.sign_in(query="?view=consumers")
    visit.page.get_by_role("button", name="Create a consumer").click()
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Team").select_option("sales")
    dialog.get_by_label("Models").fill("gpt-4o")
    dialog.get_by_label("Requests per minute").fill("600")
    dialog.get_by_label("Tokens per minute").fill("20000")
    dialog.get_by_label("Budget in USD per month").fill("7.5")
    dialog.get_by_role("button", name="Create a consumer").click()
    key = dialog.locator(".secret code").inner_text()
    assert visit.violations() == []
    made = gateway.get(f"/gateway/consumers/{key.split('_')[1]}").json()
    limits = {"requests_per_minute": 600, "tokens_per_minute": 20_000, "budget_usd": 7.5}
    assert (made["team"], made["limits"]) == ("sales", limits)
    spend(gateway, key)
    refused = gateway.post("/v1/chat/completions", {"model": "gpt-5.4-mini", "messages": []}, key=key)
    assert refused.error()["code"] == "model_not_allowed"
    dialog.get_by_role("button", name="Close").click()
    visit.page.get_by_role("link", name=name).click()
    visit.page.get_by_role("button", name="Change").click()
    dialog.get_by_label("Request quota").fill("1")
    dialog.get_by_label("Tokens per minute").fill("600000")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    section = visit.page.get_by_role("heading", name="Limits and what is used").locator("+ * + .limits")
    expect(section).to_contain_text("1 left of 1 requests per day")
    expect(section).to_contain_text(re.compile(r"US\$7\.\d\d left of US\$7\.50 per month"))
    # The bucket goes on from what it held, and fills up by the new limit.
    rising = re.compile(r"\d left of 600,000 tokens per minute\d+%Without calls full again in [1-9]\d* s")
    expect(section).to_contain_text(rising)
    expect(visit.page.get_by_role("cell", name="consumer.update")).to_be_visible()
    row = visit.page.get_by_role("region", name="Keys").locator("tbody tr")
    row.get_by_role("button", name="Revoke").click()
    expect(dialog).to_contain_text("This cannot be undone.")
    assert visit.violations() == []
    dialog.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="hidden")
    spend(gateway, key)  # nothing happened
    row.get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    expect(row.get_by_role("button")).to_have_count(0)
    expect(row).not_to_contain_text("never")
    eventually(lambda: gateway.get("/gateway/keys/me", key).status == 401)  # at once on this instance


@ON_ONE_EDGE
@pytest.mark.parametrize(
    ("language", "create", "choose"),
    [
        ("en-GB", "Create a consumer", "Choose among the"),
        ("zh-TW", "新增使用者", "個已設定的名稱中選擇"),
    ],
)
def test_models_and_aliases_are_ticked_from_the_configuration_and_what_it_lacks_is_pointed_out(
    visit: Visit, gateway: System, language: str, create: str, choose: str
) -> None:
    page, dialog = visit.page, visit.page.get_by_role("dialog")
    visit.sign_in(query="?view=consumers")
    page.evaluate("to => localStorage.setItem('tollgate.language', to)", language)
    page.evaluate("dispatchEvent(new Event('tollgate:preferred'))")
    page.get_by_role("button", name=create).click()
    label = {"en-GB": "Models", "zh-TW": "模型"}[language]
    models, warning = dialog.get_by_label(label, exact=True), dialog.get_by_role("status")
    dialog.locator("summary").filter(has_text=choose).press("Enter")
    box = dialog.get_by_role("checkbox", name="gpt-4o", exact=True)
    box.press("Space")
    dialog.get_by_role("checkbox", name="gpt-4o-2024-11-20 → gpt-4o").check()
    expect(models).to_have_value("gpt-4o, gpt-4o-2024-11-20")
    models.press("End")
    models.press_sequentially(", gpt-5.4-mi")
    expect(warning).to_have_text("")  # it may become a name
    models.press("Tab")
    expect(warning).to_contain_text("gpt-5.4-mi")
    models.fill(f"gpt-4o-2024-11-20, {HOSTILE}")
    expect(warning).to_contain_text(HOSTILE)
    assert dialog.locator("img").count() == 0
    expect(box).not_to_be_checked()
    assert visit.violations() == []
    page.set_viewport_size({"width": 360, "height": 900})
    assert dialog.evaluate("one => one.scrollWidth <= one.clientWidth")


@ON_ONE_EDGE
def test_a_model_that_is_no_longer_configured_may_stay_and_a_new_one_is_refused(visit: Visit, gateway: System) -> None:
    visit.expected = "400"
    page, dialog = visit.page, visit.page.get_by_role("dialog")
    consumer = gateway.make_key("with a model of old days", models=("gpt-4o", HOSTILE)).split("_")[1]
    visit.sign_in(query=f"?view=consumer&id={consumer}")
    page.get_by_role("button", name="Change").click()
    warning = dialog.get_by_role("status")
    expect(warning).to_have_text(f"No longer in the configuration; it may stay, and allows nothing: {HOSTILE}")
    assert dialog.locator("img").count() == 0
    dialog.locator("summary").click()
    dialog.get_by_role("checkbox", name="gpt-4o-mini", exact=True).check()
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    assert {*gateway.get(f"/gateway/consumers/{consumer}").json()["models"]} == {"gpt-4o", "gpt-4o-mini", HOSTILE}
    page.get_by_role("button", name="Change").click()
    dialog.get_by_label("Models").fill("gpt-4o, no-such-model")
    expect(warning).to_have_text("Not in the configuration, so it will be refused: no-such-model")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("models: got no-such-model")


def test_a_product_that_is_made_in_the_page_bundles_models_for_its_subscribers(visit: Visit, gateway: System) -> None:
    product = f"basic-{gateway.edge}"
    visit.sign_in(query="?view=products")
    visit.page.get_by_role("button", name="Create").click()
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(product)
    dialog.locator("summary").click()
    dialog.get_by_role("checkbox", name="gpt-4o", exact=True).check()
    expect(dialog.get_by_label("Models")).to_have_value("gpt-4o")
    dialog.get_by_role("group", name="Each subscriber").get_by_label("Tokens per minute").fill("20000")
    assert visit.violations() == []
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    expect(visit.page.get_by_role("row", name=product)).to_contain_text("gpt-4o")
    visit.go("Consumers")
    visit.page.get_by_role("button", name="Create a consumer").click()
    dialog.get_by_label("Name").fill(f"subscriber on {gateway.edge}")
    dialog.get_by_label("Products").fill(product)
    dialog.get_by_role("button", name="Create a consumer").click()
    ready = dialog.get_by_role("tabpanel")
    expect(ready).to_contain_text(re.compile(r'"model": "(gpt|o)[^"]+"'))  # a call that works as it is pasted
    key = dialog.locator(".secret code").inner_text()
    spend(gateway, key)
    messages = [{"role": "user", "content": "Hello"}]
    refused = gateway.post("/v1/chat/completions", {"model": "gpt-5.4-mini", "messages": messages}, key=key)
    assert refused.status == 403
    dialog.get_by_role("button", name="Close").click()
    visit.go("Teams")
    expect(visit.page.get_by_role("row", name="sales")).to_contain_text("administrators alone")
    visit.go("Products")
    visit.expected = "409"
    row = visit.page.get_by_role("row", name=product)
    row.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Consumers still have it.")
    dialog.get_by_role("button", name="Delete it nevertheless").click()
    expect(row).to_have_count(0)


def test_a_caller_rotates_its_own_key_and_goes_on_with_the_new_one(visit: Visit, gateway: System) -> None:
    visit.expected = "401"  # a new key is known everywhere after two seconds
    old = gateway.make_key("rotating")
    visit.sign_in(old)
    visit.page.get_by_role("button", name="Rotate").click()
    expect(visit.page.get_by_role("dialog")).to_contain_text("The old one works for another 24 hours")
    visit.page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    key = visit.page.get_by_role("dialog").locator(".secret code").inner_text()
    assert key != old
    visit.page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(visit.page.locator("main").get_by_text(key.split("_")[2], exact=True)).to_be_visible(timeout=10_000)
    spend(gateway, key)
    spend(gateway, old)  # for another day


def test_a_key_that_is_revoked_ends_the_session_in_every_tab(visit: Visit, gateway: System) -> None:
    visit.expected = "401"
    key = gateway.make_key("in two tabs")
    other = Visit(visit.page.context.new_page(), gateway)
    other.expected = "401"
    other.page.clock.install()
    other.sign_in(key)
    visit.sign_in()
    path = f"/gateway/consumers/{key.split('_')[1]}"
    assert gateway.manage("PATCH", path, {"state": "revoked"}).status == 200
    eventually(lambda: gateway.get("/gateway/keys/me", key).status == 401)  # at once on this instance
    other.page.clock.fast_forward("00:11")  # its next look at the limits
    expect(other.page.get_by_role("status")).to_contain_text("Your session has ended")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Overview")
    other.assert_clean()
