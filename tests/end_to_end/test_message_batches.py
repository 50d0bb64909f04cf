"""Batches of messages: whose they are, where they go, and what they cost, to the token. Anthropic behind a Foundry
resource that has no batches."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.billing.charges import Tariff
from shared.billing.cost import USD
from shared.billing.prices import Prices
from shared.config.limits import Limits
from shared.process.application import Application
from shared.types import Access
from shared.usage import hours
from shared.usage._hour_fold import HourFold
from shared.usage.query import HourRange
from simulator.process import SimulatorProcess
from tests.harness.calls import CLAUDES_CLASSES as CLASSES
from tests.harness.in_process import Reply, Tables, call, gateway, key
from tests.harness.patience import PATIENCE

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"
BATCHES = "/v1/messages/batches"
REGIONS = [
    {"name": "eastus2", "deployments": [{"name": f"{SONNET}-prod", "model": SONNET}]},
    {
        "name": "anthropic",
        "api": "anthropic",
        "deployments": [{"name": name, "model": name} for name in (SONNET, HAIKU)],
    },
]


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatorProcess]:
    with SimulatorProcess({"api_key": "secret", "regions": REGIONS}) as running:
        yield running


@asynccontextmanager
async def pool(simulated: SimulatorProcess, tables: Tables, **document: Any) -> AsyncIterator[Application]:
    """Sonnet, with an alias, at a Foundry resource and at Anthropic; Haiku at Anthropic alone."""
    simulated.clear()
    common: dict[str, Any] = {"auth": {"api_key_env": "K"}}
    foundry = {"name": "foundry", "endpoint": simulated.regions["eastus2"], "region": "eastus2"}
    own = {"name": "own", "endpoint": simulated.regions["anthropic"], "kind": "anthropic", "priority": 2}
    backends = [
        {**foundry, "models": {SONNET: f"{SONNET}-prod"}, **common},
        {**own, "models": {SONNET: SONNET, HAIKU: HAIKU}, **common},
    ]
    models = {SONNET: {"aliases": ["sonnet"]}}
    async with gateway(tables, backends, models=models, **document) as application:
        yield application


FOREIGN = [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_of_others"}}]}]


def asked(number: int, model: str = "sonnet", words: str = "Where to?", **more: Any) -> dict[str, Any]:
    """A request of a batch."""
    params = {"model": model, "max_tokens": 40, "messages": [{"role": "user", "content": words}], **more}
    return {"custom_id": f"request-{number}", "params": params}


async def made(application: Application, text: str, *requests: dict[str, Any]) -> dict[str, Any]:
    reply = await call(application, text, BATCHES, {"requests": list(requests)})
    assert reply.status == 200, reply.body
    return dict(json.loads(reply.body))


async def get(application: Application, text: str, path: str, method: str = "GET") -> Reply:
    return await call(application, text, path, method=method, headers={"anthropic-version": "2023-06-01"})


async def ended(application: Application, text: str, batch: str) -> dict[str, Any]:
    """The batch, once it has ended."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        about = json.loads((await get(application, text, f"{BATCHES}/{batch}")).body)
        if about["processing_status"] == "ended":
            return dict(about)
        assert asyncio.get_running_loop().time() < deadline, about
        await asyncio.sleep(0.02)


async def settled(application: Application) -> None:
    """Wait for the settlements that calls have begun."""
    await application.settler._settlements.tasks.finish(5)


def rows(tables: Tables) -> list[dict[str, Any]]:
    """The rows with the usage of batches: of the calls that made them, and of their further parts."""
    entries = sorted(tables.usage().items())
    return [dict(row) for _, row in entries if row.get("s_op") == "messages.batches.create" or "e_role" in row]


def charged(simulated: SimulatorProcess) -> dict[str, int]:
    totals = list(simulated.log(summary=True)["totals"].values())
    return {row: sum(total[name] for total in totals) for name, row in CLASSES.items()}


def booked(tables: Tables) -> dict[str, int]:
    return {name: sum(int(row.get(name, 0)) for row in rows(tables)) for name in CLASSES.values()}


def used_usd(tables: Tables) -> float:
    limit_rows = next(rows for partition, rows in tables.rows("limits").items() if partition.startswith("key:"))
    return float(limit_rows["0"][0].get("usd_used", 0.0))


def reported_usd(tables: Tables) -> float:
    """The cost of all usage, as reports have it."""
    fold = HourFold(time.time())
    for row in tables.usage().values():
        fold.add(row)
    hour = hours.hour_of(time.time())
    charges = Tariff(Prices(), []).charges(HourRange(hour, hour + 1), fold.result().lines, time.time())
    return sum(charge.picodollars or 0 for charge in charges) / USD


async def test_a_batch_is_booked_to_the_token_once_its_caller_sees_its_end(simulated: SimulatorProcess) -> None:
    tables = Tables()
    cached: dict[str, Any] = {
        "system": [{"type": "text", "text": "rules " * 1200, "cache_control": {"type": "ephemeral"}}]
    }
    search: dict[str, Any] = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    async with pool(simulated, tables) as application:
        text = await key(tables)
        batch = await made(
            application, text, asked(1), asked(2, **cached), asked(3, **cached), asked(4, words="simulate_expired"),
            asked(5, words="simulate_web_searches=2", **search), asked(6, words="simulate_content_filter"),
            asked(7, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=400),
        )  # fmt: skip
        about = await ended(application, text, batch["id"])
        assert about["request_counts"] == {"processing": 0, "succeeded": 5, "errored": 1, "canceled": 0, "expired": 1}
        await settled(application)
        results = await get(application, text, about["results_url"])
        for _ in range(3):  # whoever reads it again
            await ended(application, text, batch["id"])
            await application.roll_up()
    lines = [json.loads(line) for line in results.body.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"request-{number}" for number in range(1, 8)]
    assert results.headers["content-type"] == "application/x-jsonl"
    [row] = rows(tables)
    assert booked(tables) == charged(simulated)
    assert {name for name, count in charged(simulated).items() if not count} == {"e_cache_write_1h"}
    assert (row["e_tier"], row["e_sum"], row["e_backend"], row["e_model"]) == ("batch", True, "own", SONNET)
    assert "e_long" not in row
    assert not row.get("e_est")


async def test_a_batch_that_nobody_reads_is_booked_by_the_timer(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, Limits(budget_usd=1.0))
        await made(application, text, asked(1), asked(2))
        held = used_usd(tables)
        await application.roll_up()
        assert "e_input" not in rows(tables)[0]
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while "e_input" not in rows(tables)[0]:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
            await application.roll_up()
    assert booked(tables) == charged(simulated)
    counts = charged(simulated)
    price = (counts["e_input"] * 1.0 + counts["e_output"] * 5.0) / 1e6  # half of 2 and 10
    assert used_usd(tables) == pytest.approx(price)
    assert held > price  # its reservation stood until then


async def test_requests_to_several_models_have_the_prices_of_each(simulated: SimulatorProcess) -> None:
    tables = Tables()
    long = asked(4, HAIKU, words="word " * 100_100)
    async with pool(simulated, tables) as application:
        text = await key(tables, Limits(budget_usd=1.0))
        near = asked(5, inference_geo="us")
        batch = await made(application, text, asked(1), asked(2, HAIKU), asked(3, SONNET), long, near)
        await ended(application, text, batch["id"])
        await settled(application)
    assert booked(tables) == charged(simulated)
    parts = {(row["e_model"], row["e_tier"], bool(row.get("e_long"))): row for row in rows(tables)}
    prices = {
        (SONNET, "batch", False): (1.0, 5.0),
        (SONNET, "batch-us", False): (1.1, 5.5),
        (HAIKU, "batch", False): (0.05, 0.25),
        (HAIKU, "batch", True): (0.25, 1.25),
    }
    assert parts.keys() == prices.keys()
    assert parts[HAIKU, "batch", True]["e_input"] > 100_000
    assert sum("e_role" in row for row in parts.values()) == 3
    usd = sum(parts[part]["e_input"] * read + parts[part]["e_output"] * said for part, (read, said) in prices.items())
    assert used_usd(tables) == pytest.approx(usd / 1e6)
    assert reported_usd(tables) == pytest.approx(usd / 1e6)


async def test_a_batch_reaches_anthropic_with_its_names_and_every_other_byte(simulated: SimulatorProcess) -> None:
    tables = Tables()
    body = (
        b'{ "requests" : [ {"custom_id":"a\\u00e9","params":{"model" : "sonnet","max_tokens":9,'
        b'"messages":[{"role":"user","content":"\\"model\\":\\"sonnet\\" [{"}]}} ,\n {"params":{"model":"'
        + HAIKU.encode()
        + b'","max_tokens":9,"messages":[]},"custom_id":"b"} ] }'
    )
    async with pool(simulated, tables) as application:
        reply = await call(application, await key(tables), BATCHES, body)
    assert reply.status == 200, reply.body
    assert simulated.last_body("anthropic") == body.replace(b'"model" : "sonnet"', f'"model" : "{SONNET}"'.encode())
    assert {one["region"] for one in simulated.log()["requests"]} == {"anthropic"}
    assert json.loads(reply.body)["results_url"] is None


async def test_another_keys_batch_is_not_there(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        ours, theirs = await key(tables), await key(tables)
        batch = (await made(application, ours, asked(1)))["id"]
        await ended(application, ours, batch)
        await settled(application)
        before = len(simulated.log()["requests"])
        for method, end in (("GET", ""), ("POST", "/cancel"), ("GET", "/results"), ("DELETE", "")):
            reply = await get(application, theirs, f"{BATCHES}/{batch}{end}", method)
            assert (reply.status, json.loads(reply.body)["error"]["type"]) == (404, "not_found_error")
            assert "message batch" in json.loads(reply.body)["error"]["message"]
        assert len(simulated.log()["requests"]) == before
        assert (await get(application, ours, f"/anthropic{BATCHES}/{batch}", "DELETE")).status == 200
        assert (await get(application, ours, f"{BATCHES}/{batch}")).status == 404


async def test_a_batch_that_is_deleted_is_booked_before(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        batch = (await made(application, text, asked(1), asked(2)))["id"]
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (await get(application, text, f"{BATCHES}/{batch}", "DELETE")).status != 200:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        assert "e_input" in rows(tables)[0]
    assert booked(tables) == charged(simulated)


async def test_a_canceled_batch_costs_what_it_answered(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, Limits(budget_usd=1.0))
        batch = (await made(application, text, asked(1, words="simulate_held"), asked(2)))["id"]
        canceled = await get(application, text, f"{BATCHES}/{batch}/cancel", "POST")
        assert json.loads(canceled.body)["processing_status"] == "canceling"
        about = await ended(application, text, batch)
        assert about["request_counts"]["canceled"] == 2
        await settled(application)
    assert booked(tables) == dict.fromkeys(CLASSES.values(), 0)
    assert used_usd(tables) == pytest.approx(0)


async def test_a_list_has_the_callers_batches_alone_page_by_page(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        ours, theirs = await key(tables), await key(tables)
        made_here = []
        for number in range(5):
            made_here.append((await made(application, ours, asked(number)))["id"])
            await made(application, theirs, asked(number))
        await ended(application, ours, made_here[-1])

        async def page(query: str, text: str = ours) -> dict[str, Any]:
            reply = await get_with(application, text, BATCHES, query)
            assert reply.status == 200, reply.body
            return dict(json.loads(reply.body))

        newest = made_here[::-1]
        first = await page("limit=2")
        assert [one["id"] for one in first["data"]] == newest[:2]
        assert (first["has_more"], first["first_id"], first["last_id"]) == (True, newest[0], newest[1])
        assert first["data"][0]["results_url"] == f"{BATCHES}/{newest[0]}/results"
        second = await page(f"limit=2&after_id={newest[1]}&beta=true")
        assert [one["id"] for one in second["data"]] == newest[2:4]
        last = await page(f"limit=2&after_id={newest[3]}")
        assert ([one["id"] for one in last["data"]], last["has_more"]) == (newest[4:], False)
        back = await page(f"limit=2&before_id={newest[3]}")
        assert ([one["id"] for one in back["data"]], back["has_more"]) == (newest[1:3], True)
        assert (await get_with(application, theirs, BATCHES, f"after_id={newest[0]}")).status == 404
        assert (await get_with(application, ours, BATCHES, "limit=1001")).status == 400
        assert (await page("", await key(tables)))["data"] == []


@pytest.mark.parametrize(
    ("requests", "status", "words"),
    [
        ([asked(1), asked(2, "gpt-4o")], 404, "gpt-4o"),
        ([asked(1), {"custom_id": "x", "params": {"max_tokens": 3}}], 400, "requests[1]"),
        ([asked(1), {"custom_id": "x"}], 400, "requests[1]: expected `params`"),
        ([asked(1), "x"], 400, "requests[1]"),
        ([["x"]], 400, "requests[0]"),
        ([], 400, "requests"),
        ({}, 400, "requests"),
        ([asked(1), asked(2, messages=FOREIGN)], 404, "claude file"),
        ([asked(1), asked(2, container="container_of_others")], 404, "claude container"),
    ],
)  # fmt: skip
async def test_a_wrong_request_refuses_the_whole_batch(
    simulated: SimulatorProcess, requests: Any, status: int, words: str
) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        reply = await call(application, await key(tables), BATCHES, {"requests": requests})
        assert reply.status == status, reply.body
        assert words in json.loads(reply.body)["error"]["message"]
    assert simulated.log()["requests"] == []


async def test_a_key_for_some_models_may_batch_those_alone(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, models=frozenset((HAIKU,)))
        assert (await call(application, text, BATCHES, {"requests": [asked(1, HAIKU)]})).status == 200
        refused = await call(application, text, BATCHES, {"requests": [asked(1, HAIKU), asked(2)]})
        assert (refused.status, code_of(refused)) == (
            403,
            "model_not_allowed",
        )


async def test_other_models_of_a_request_are_those_of_a_message(simulated: SimulatorProcess) -> None:
    """A key for some models may not have others answer, and one with a budget none at another price."""
    tables = Tables()
    advised = asked(1, HAIKU, tools=[{"type": "advisor_20260301", "name": "advisor", "model": SONNET}])
    async with pool(simulated, tables) as application:
        for text, code in (
            (await key(tables, models=frozenset((HAIKU,))), "model_not_allowed"),
            (await key(tables, Limits(budget_usd=1.0)), "unmetered_operation"),
        ):
            refused = await call(application, text, BATCHES, {"requests": [asked(0, HAIKU), advised]})
            assert (refused.status, code_of(refused)) == (403, code)
        assert (await call(application, await key(tables), BATCHES, {"requests": [advised]})).status == 200


async def test_a_batch_beyond_its_budget_is_refused(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, Limits(budget_usd=0.2))
        many = [asked(number, SONNET if number else HAIKU, "word " * 500, max_tokens=4000) for number in range(300)]
        refused = await call(application, text, BATCHES, {"requests": many})
        assert (refused.status, code_of(refused)) == (403, "budget_exceeded")
        assert (await call(application, text, BATCHES, {"requests": many[:1]})).status == 200


async def test_a_key_of_some_regions_has_no_batches(simulated: SimulatorProcess) -> None:
    """They would be answered anywhere."""
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, access=Access(regions=frozenset(("eastus2",))))
        refused = await call(application, text, BATCHES, {"requests": [asked(1)]})
        assert (refused.status, code_of(refused)) == (403, "region_not_allowed")
        near = asked(1)["params"] | {"inference_geo": "us"}
        refused = await call(application, text, "/v1/messages", near)
        assert (refused.status, code_of(refused)) == (403, "region_not_allowed")
    assert simulated.log()["requests"] == []


async def test_files_stay_where_messages_go_and_name_their_keys_alone(simulated: SimulatorProcess) -> None:
    """At the Foundry resource, since more models of the key are there; a batch cannot use them."""
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables, access=Access(regions=frozenset(("eastus2",))))
        form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nnorth\r\n--b--\r\n'
        headers = {"content-type": "multipart/form-data; boundary=b", "anthropic-version": "2023-06-01"}
        made_here = [await call(application, text, "/v1/files", form, headers=headers) for _ in range(2)]
        ids = [str(json.loads(reply.body)["id"]) for reply in made_here]
        source = {"type": "document", "source": {"type": "file", "file_id": ids[0]}}
        named = asked(1, messages=[{"role": "user", "content": [source]}])
        assert (await call(application, text, "/anthropic/v1/messages", named["params"])).status == 200
        there = await key(tables, models=frozenset((SONNET,)))
        kept = json.loads((await call(application, there, "/v1/files", form, headers=headers)).body)["id"]
        source = {"type": "document", "source": {"type": "file", "file_id": kept}}
        batch = asked(1, messages=[{"role": "user", "content": [source]}])
        refused = await call(application, there, BATCHES, {"requests": [batch]})
        assert (refused.status, code_of(refused)) == (404, "unknown_path")
        first = json.loads((await get_with(application, text, "/anthropic/v1/files", "limit=1")).body)
        assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[1:], True)
        for cursor in (f"page={first['next_page']}", f"after_id={ids[1]}"):
            last = json.loads((await get_with(application, text, "/anthropic/v1/files", cursor)).body)
            assert ([one["id"] for one in last["data"]], last["next_page"]) == (ids[:1], None)
    assert {one["region"] for one in simulated.log()["requests"]} == {"eastus2"}


async def test_unknown_batches_and_files_are_adopted_from_where_they_are(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        batch = (await made(application, text, asked(1)))["id"]
        form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nnorth\r\n--b--\r\n'
        headers = {"content-type": "multipart/form-data; boundary=b"}
        file = json.loads((await call(application, text, "/anthropic/v1/files", form, headers=headers)).body)["id"]
        tables = Tables()  # of another gateway, which knows nothing of them
        models: Any = {"name": "own", "endpoint": simulated.regions["anthropic"], "kind": "anthropic"}
        models |= {"auth": {"api_key_env": "K"}, "models": {SONNET: SONNET}}
        foundry = {"name": "foundry", "endpoint": simulated.regions["eastus2"], "region": "eastus2"}
        backends = [models, {**foundry, "auth": {"api_key_env": "K"}, "models": {SONNET: f"{SONNET}-prod"}}]
        async with gateway(tables, backends, adopt_unknown_ids=True) as other:
            text = await key(tables)
            assert (await get(other, text, f"{BATCHES}/{batch}")).status == 200
            assert (await get(other, text, f"/v1/files/{file}")).status == 200
            before = len(simulated.log()["requests"])
            lost = await call(other, text, f"/v1/files/{file}", method="GET")  # of OpenAI's
            assert lost.status == 404
            assert [one["region"] for one in simulated.log()["requests"][before:]] == ["eastus2"]


async def test_a_foundry_alone_has_no_batches(simulated: SimulatorProcess) -> None:
    tables = Tables()
    simulated.clear()
    foundry = {"name": "foundry", "endpoint": simulated.regions["eastus2"], "region": "eastus2"}
    backends = [{**foundry, "models": {SONNET: f"{SONNET}-prod"}, "auth": {"api_key_env": "K"}}]
    async with gateway(tables, backends) as application:
        text = await key(tables)
        replies = [
            await call(application, text, BATCHES, {"requests": [asked(1, SONNET)]}),
            await get(application, text, BATCHES),
        ]
    for reply in replies:
        assert (reply.status, json.loads(reply.body)["error"]["type"]) == (404, "not_found_error")
    assert simulated.log()["requests"] == []


async def test_results_that_break_off_are_read_again(simulated: SimulatorProcess) -> None:
    tables = Tables()
    async with pool(simulated, tables) as application:
        text = await key(tables)
        batch = (await made(application, text, asked(1), asked(2)))["id"]
        simulated.fault("status", status=503, operation="GET anthropic/messages/batches/{id}/results", times=3)
        await ended(application, text, batch)
        await settled(application)
        assert "e_input" not in rows(tables)[0]
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while "e_input" not in rows(tables)[0]:
            assert asyncio.get_running_loop().time() < deadline
            await ended(application, text, batch)
            await settled(application)
    assert booked(tables) == charged(simulated)


def code_of(reply: Reply) -> str:
    """The gateway's own code of an error."""
    return str(json.loads(reply.body)["error"]["details"]["error_code"])


async def get_with(application: Application, text: str, path: str, query: str) -> Reply:
    """A GET with a query."""
    return await call(application, text, path, method="GET", query=query)
