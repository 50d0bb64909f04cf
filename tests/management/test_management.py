"""The gateway's own paths, over HTTP on both edges: who may ask, what is told, and what is refused."""

import asyncio
import csv
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.errors import RateLimitExceeded
from shared.management.turns import Turns
from tests.harness.system import System


def test_an_operator_sees_the_usage_of_everybody_and_what_it_cost(gateway: System) -> None:
    key = gateway.make_key("the accountant's")
    usage = gateway.post(
        "/v1/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}, key=key
    ).json()["usage"]
    answer = gateway.get("/gateway/usage?by=key,model")
    assert answer.status == 200
    report = answer.json()
    (line,) = [line for line in report["lines"] if line["key"] == key.split("_")[1]]
    assert (line["name"], line["model"], line["requests"]) == ("the accountant's", "gpt-4o", 1)
    assert (line["input_tokens"], line["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert line["cost_usd"] == pytest.approx((usage["prompt_tokens"] * 2.5 + usage["completion_tokens"] * 10) / 1e6)
    assert line["forecast_usd"] >= line["cost_usd"]
    assert sum(line["total_tokens"] for line in report["lines"]) == report["total"]["total_tokens"]
    as_csv = gateway.get("/gateway/usage?by=key,model&format=csv")
    assert as_csv.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.body.decode())))
    assert [row["requests"] for row in rows if row["key"] == line["key"]] == ["1"]


def test_callers_see_their_own_usage_and_nobody_elses(gateway: System) -> None:
    key, other = gateway.make_key("seen"), gateway.make_key("unseen")
    for owner in (key, other):
        gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hello"}, key=owner)
    lines = gateway.get("/gateway/usage/me", key).json()["lines"]
    assert [(line["model"], line["requests"]) for line in lines] == [("text-embedding-3-small", 1)]
    assert gateway.get("/gateway/usage/me?by=key", key).json()["lines"][0]["name"] == "seen"
    for path in (f"?key={other.split('_')[1]}", "?by=model&key=x"):
        refused = gateway.get(f"/gateway/usage/me{path}", key)
        assert (refused.status, refused.error()["param"]) == (400, "key")


def test_keys_open_only_their_own_paths(gateway: System) -> None:
    for path, key in (
        ("/gateway/usage", gateway.key),
        ("/gateway/usage", "tg_nonsense"),
        ("/gateway/usage/me", "tg_nonsense"),
        ("/gateway/usage/you", gateway.key),
    ):
        assert gateway.get(path, key).status == 401
    assert gateway.get("/gateway/usage/me").status == 401  # the operator has no usage of its own
    assert gateway.get("/gateway/usage/you").status == 404


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=colour", "by"),
        ("by=", "by"),
        ("since=yesterday", "since"),
        ("since=2026-11-09&until=2026-11-02", "since"),
        ("every=minute", "every"),
        ("every=hour&since=2025-01-01", "every"),
        ("format=xml", "format"),
        ("colour=red", "colour"),
        ("by=key&by=model", "by"),
        ("since=%00%ff", "since"),
        ("since=0001-01-01T00:00%2B14:00", "since"),
        ("until=9999-12-31T23:59-14:00", "until"),
    ],
)
def test_bad_questions_get_a_400_that_names_the_parameter(gateway: System, query: str, param: str) -> None:
    for path, key in (("/gateway/usage", None), ("/gateway/usage/me", gateway.key)):
        refused = gateway.get(f"{path}?{query}", *([key] if key else []))
        assert (refused.status, refused.error()["param"]) == (400, param)
        assert refused.error()["message"]


def test_no_cache_keeps_what_a_credential_opens(gateway: System) -> None:
    for path, key in (("/gateway/usage", None), ("/gateway/consumers", None), ("/gateway/keys/me", gateway.key)):
        assert gateway.get(path, *([key] if key else [])).headers["cache-control"] == "no-store"


def test_a_caller_in_a_loop_is_slowed_down_and_holds_up_nobody_else(gateway: System) -> None:
    made = gateway.manage("POST", "/gateway/consumers", {"name": f"loop on {gateway.edge}"}).json()
    answers = (gateway.get("/gateway/limits/me", made["key"]) for _ in range(300))
    refused = next(answer for answer in answers if answer.status == 429)
    assert float(refused.headers["retry-after"]) > 0
    assert gateway.get("/gateway/limits/me", gateway.key).status == gateway.get("/gateway/limits").status == 200
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: gateway.get("/gateway/usage/me", gateway.key).status, range(8)))
    assert set(reports) <= {200, 429}
    assert 200 in reports


async def test_of_one_askers_work_a_little_is_under_way() -> None:
    turns, go, running = Turns(1, 2), asyncio.Event(), list[str]()

    async def work(asker: str) -> None:
        async with turns.take(asker):
            running.append(asker)
            await go.wait()

    tasks = [asyncio.create_task(work(asker)) for asker in ("a", "a", "a", "b")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert running == ["a"]
    go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, RateLimitExceeded) for one in ended] == [False, False, True, False]
    assert running == ["a", "a", "b"]
    await work("a")
