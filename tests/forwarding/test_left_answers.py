"""Streams that their callers leave when the answer is there and its usage is not: they are read on, and counted."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from shared.azure_openai.metering import IMAGE
from shared.config.limits import Limits
from shared.forwarding import late_attempts
from shared.process.application import Application
from shared.requests.disconnect import CallerDisconnected
from shared.usage import unsaid
from tests.harness.in_process import Exchange, Reply, Tables, backend, call, gateway, key
from tests.harness.patience import PATIENCE, eventually

MODEL = {"m": "deployment"}
CHAT = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "think"}]}
USAGE = {
    "prompt_tokens": 3000,
    "completion_tokens": 25_020,
    "completion_tokens_details": {"reasoning_tokens": 25_000},
}
RESPONSE_USAGE = {
    "input_tokens": 3000,
    "output_tokens": 25_020,
    "output_tokens_details": {"reasoning_tokens": 25_000},
}


def choice(index: int = 0, content: str = "", reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": content} if content else {}, "finish_reason": reason}


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "m", "choices": list(choices), **more}


WORD, FINISH = chunk(choice(content="word")), chunk(choice(reason="stop"))
CHAT_END = (chunk(usage=USAGE), "[DONE]")
RESPONSES = {"model": "m", "stream": True, "store": False, "input": "think"}
MESSAGES = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "think"}]}
IMAGES = {"model": "m", "stream": True, "partial_images": 3, "prompt": "a cat"}
CREATED = {"type": "response.created", "response": {"id": "resp_0123456789"}}
TEXT = {"type": "response.output_text.delta", "delta": "word"}
TEXT_DONE = {"type": "response.output_text.done", "text": "word"}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_0123456789", "usage": RESPONSE_USAGE}}
BEGUN = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3000, "output_tokens": 1}}}
SAID = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word"}}
COMPACTION = {"type": "content_block_start", "index": 0, "content_block": {"type": "compaction", "content": None}}
BLOCK_STOP = {"type": "content_block_stop", "index": 0}
MESSAGE_END = (
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 25_020}},
    {"type": "message_stop"},
)
PARTIAL = {"type": "image_generation.partial_image", "partial_image_index": 2, "b64_json": "A" * 5000}
IMAGE_END = (
    {
        "type": "image_generation.completed",
        "b64_json": "A" * 100_000,
        "usage": {"input_tokens": 3000, "output_tokens": 25_020},
    },
)


class Left:
    """A backend whose stream stops after its first events until the caller has left, and goes on with the last."""

    def __init__(self, *events: Any, after: tuple[Any, ...] = (), silent: bool = False) -> None:
        self._events, self._after, self._silent, self.count = events, after, silent, len(events)
        self.shown, self.gone = asyncio.Event(), asyncio.Event()
        self.ended = ""

    async def __call__(self, exchange: Exchange) -> None:
        exchange.stream()
        try:
            for event in self._events:
                await exchange.event(event)
            self.shown.set()
            await self.gone.wait()
            await asyncio.sleep(30 if self._silent else 0.5)
            for event in self._after:
                await exchange.event(event)
                await asyncio.sleep(0.02)
            exchange.end()
            self.ended = "whole"
        except ConnectionError:
            self.ended = "closed"
            raise


async def leave(app: Application, secret: str, path: str, body: dict[str, Any], left: Left) -> Reply:
    reply = Reply()
    task = asyncio.ensure_future(call(app, secret, path, body, gone=left.gone, reply=reply))
    await asyncio.wait_for(left.shown.wait(), PATIENCE)
    await eventually(lambda: reply.body.count(b"data: ") >= left.count)
    left.gone.set()
    return await task


async def counted(tables: Tables) -> dict[str, Any]:
    """The one row, once it is complete."""
    async with asyncio.timeout(PATIENCE):
        while True:
            rows = list(tables.usage().values())
            if rows and "e_status" in rows[0]:
                assert len(rows) == 1
                return dict(rows[0])
            await asyncio.sleep(0.05)


def used(tables: Tables) -> int:
    """The tokens that the key's quota has counted."""
    return sum(int(row["0"][0].get("tokens_used", 0)) for row in tables.rows("limits").values())


@pytest.mark.parametrize(
    ("path", "body", "events", "after"),
    [
        ("/v1/chat/completions", CHAT, (WORD, FINISH), CHAT_END),
        (
            "/v1/chat/completions",
            CHAT | {"n": 2},
            (chunk(choice(), choice(1)), FINISH, chunk(choice(1, "", "stop"))),
            CHAT_END,
        ),
        ("/v1/responses", RESPONSES, (CREATED, TEXT, TEXT_DONE), (COMPLETED,)),
        ("/v1/responses", RESPONSES, (CREATED, TEXT, TEXT_DONE, {"type": "keepalive"}), (COMPLETED,)),
        ("/v1/messages", MESSAGES, (BEGUN, SAID, BLOCK_STOP, {"type": "ping"}), MESSAGE_END),
        ("/v1/messages", MESSAGES, (BEGUN, COMPACTION, BLOCK_STOP, SAID), (SAID, BLOCK_STOP, *MESSAGE_END)),
        ("/v1/images/generations", IMAGES, (PARTIAL,), IMAGE_END),
    ],
    ids=["chat", "two choices", "responses", "keepalive", "messages", "compaction", "images"],
)
async def test_the_usage_that_follows_is_counted_once(
    path: str, body: dict[str, Any], events: tuple[Any, ...], after: tuple[Any, ...]
) -> None:
    tables, left = Tables(), Left(*events, after=after)
    kind = {"kind": "anthropic"} if path == "/v1/messages" else {}
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry | kind]) as app:
        secret = await key(tables, Limits(token_quota=1_000_000, max_concurrent=1))
        reply = await leave(app, secret, path, body, left)
        assert (reply.status, reply.complete) == (200, False)
        assert not [row for row in tables.usage().values() if "e_status" in row]  # it is still under way
        row = await counted(tables)
        assert (row["e_ended"], row["e_status"]) == ("hung_up", 200)
        assert (row["e_input"], row["e_output"], row.get("e_est")) == (3000, 25_020, None)
        assert not app._running.backends.late._tasks
        await eventually(lambda: left.ended)
        assert left.ended == "whole"
    assert used(tables) == 28_020


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        ("/v1/chat/completions", CHAT, (WORD,)),
        ("/v1/chat/completions", CHAT | {"n": 2}, (chunk(choice(content="a"), choice(1, "b")), FINISH)),
        ("/v1/responses", RESPONSES, (CREATED, TEXT)),
        ("/v1/messages", MESSAGES, (BEGUN, SAID)),
    ],
    ids=["chat", "one of two choices", "responses", "messages"],
)
async def test_an_answer_under_way_is_stopped(path: str, body: dict[str, Any], events: tuple[Any, ...]) -> None:
    tables, left = Tables(), Left(*events, after=(WORD,) * 50)
    kind = {"kind": "anthropic"} if path == "/v1/messages" else {}
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry | kind]) as app:
        await leave(app, await key(tables), path, body, left)
        assert not app._running.backends.late._tasks
        await eventually(lambda: left.ended)
        assert left.ended == "closed"
        row = await counted(tables)
        assert (row["e_ended"], row["e_est"]) == ("hung_up", True)
        assert row["e_output"] < 10


class Thinker:
    """A backend that reasons for a while between its first events and a word, after which its caller leaves."""

    def __init__(self, seconds: float, before: tuple[Any, ...], *word: Any) -> None:
        self._seconds, self._before, self._word = seconds, before, word
        self.shown, self.gone = asyncio.Event(), asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if self._word:
            exchange.stream()
            for event in self._before:
                await exchange.event(event)
        await asyncio.sleep(self._seconds)
        for event in self._word:
            await exchange.event(event)
        self.shown.set()
        await asyncio.sleep(30)


THOUGHT, SECONDS = 25_000, 0.5  # the tokens of its reasoning, and their time
ADDED = {"type": "response.output_item.added", "item": {"type": "reasoning"}}


@pytest.fixture
def fast_thought(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of reasoning instead of four minutes."""
    monkeypatch.setattr(unsaid, "TOKENS_PER_SECOND", THOUGHT / SECONDS)
    monkeypatch.setattr(unsaid, "_PAUSE", 0.2)


@pytest.mark.usefixtures("fast_thought")
@pytest.mark.parametrize(
    ("path", "body", "thinker"),
    [
        ("/v1/chat/completions", CHAT | {"reasoning_effort": "high"}, Thinker(SECONDS, (), WORD)),
        ("/v1/responses", RESPONSES | {"reasoning": {"effort": "low"}}, Thinker(SECONDS, (CREATED, ADDED), TEXT)),
        ("/v1/messages", MESSAGES | {"thinking": {"type": "adaptive"}}, Thinker(SECONDS, (BEGUN,), SAID)),
        ("/v1/chat/completions", CHAT | {"stream": False}, Thinker(SECONDS, ())),
    ],
    ids=["chat", "responses", "messages", "whole"],
)
async def test_a_caller_that_leaves_just_before_the_finish_pays_for_the_reasoning(
    path: str, body: dict[str, Any], thinker: Thinker
) -> None:
    tables = Tables()
    body = {name: value for name, value in body.items() if name != "max_tokens"}
    if path == "/v1/messages":
        body["max_tokens"] = 100_000
    kind = {"kind": "anthropic"} if path == "/v1/messages" else {}
    async with backend("a", MODEL, thinker) as entry, gateway(tables, [entry | kind]) as app:
        secret = await key(tables, Limits(token_quota=1_000_000))
        task = asyncio.ensure_future(call(app, secret, path, body, gone=thinker.gone))
        await asyncio.wait_for(thinker.shown.wait(), PATIENCE)
        await asyncio.sleep(0.05)
        thinker.gone.set()
        with contextlib.suppress(CallerDisconnected):
            await task
        first = await counted(tables)
        await eventually(lambda: path == "/v1/messages" or "e_counted" in next(iter(tables.usage().values())))
        row = next(iter(tables.usage().values()))
    for one in (first, row):
        assert (one["e_ended"], one["e_est"]) == ("hung_up", True)
        assert THOUGHT / 2 < int(one["e_output"]) < 20 * THOUGHT
    assert bool(row.get("e_reasoning")) == bool(body.get("stream"))
    assert used(tables) > THOUGHT / 2


@pytest.mark.usefixtures("fast_thought")
async def test_a_caller_that_leaves_a_slow_model_that_does_not_reason_pays_for_its_text() -> None:
    tables, thinker = Tables(), Thinker(SECONDS, (), WORD)
    async with backend("a", MODEL, thinker) as entry, gateway(tables, [entry]) as app:
        task = asyncio.ensure_future(call(app, await key(tables), "/v1/chat/completions", CHAT, gone=thinker.gone))
        await asyncio.wait_for(thinker.shown.wait(), PATIENCE)
        await asyncio.sleep(0.05)
        thinker.gone.set()
        await task
        assert (await counted(tables))["e_output"] < 10


async def test_an_answer_that_goes_on_with_another_item_is_stopped() -> None:
    more = {"type": "response.output_item.added", "item": {"type": "message"}}
    tables, left = Tables(), Left(CREATED, TEXT, TEXT_DONE, after=(more, *[TEXT] * 50))
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry]) as app:
        await leave(app, await key(tables), "/v1/responses", RESPONSES, left)
        await eventually(lambda: left.ended)
        assert left.ended == "closed"
        assert (await counted(tables))["e_est"] is True


@pytest.mark.parametrize(
    ("path", "body", "events", "tokens", "images"),
    [
        ("/v1/chat/completions", CHAT, (WORD, FINISH), 1, None),
        ("/v1/images/generations", IMAGES, (PARTIAL,), IMAGE, 1),
        ("/v1/images/generations", IMAGES, (PARTIAL | {"b64_json": "A" * 100_000},), IMAGE, 1),
    ],
    ids=["chat", "images", "large image"],
)
async def test_a_backend_that_reports_nothing_in_time_leaves_an_estimate(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    events: tuple[Any, ...],
    tokens: int,
    images: int | None,
) -> None:
    monkeypatch.setattr(late_attempts, "_REPORT", 0.5)
    tables, left = Tables(), Left(*events, silent=True)
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry]) as app:
        secret = await key(tables, Limits(token_quota=1_000_000))
        await leave(app, secret, path, body, left)
        row = await counted(tables)
        assert (row["e_ended"], row["e_est"], row["e_output"], row.get("e_images")) == ("hung_up", True, tokens, images)
        assert not app._running.backends.late._tasks


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/images/generations"])
async def test_an_event_that_its_caller_has_in_part_is_read_to_its_end(path: str) -> None:
    images = path.endswith("generations")
    last = json.dumps(IMAGE_END[0] if images else COMPLETED | {"padding": "x" * 100_000}).encode()
    tables, shown, gone = Tables(), asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.event(PARTIAL if images else TEXT)
        await exchange.piece(b"data: " + last[:90_000])
        shown.set()
        await gone.wait()
        await asyncio.sleep(0.2)
        await exchange.piece(last[90_000:] + b"\n\n")
        exchange.end()

    async with backend("a", MODEL, script) as entry, gateway(tables, [entry]) as app:
        asking = call(app, await key(tables), path, IMAGES if images else RESPONSES, gone=gone)
        task = asyncio.ensure_future(asking)
        await shown.wait()
        await asyncio.sleep(0.1)
        gone.set()
        assert len((await task).body) > 65_536
        row = await counted(tables)
        assert (row["e_ended"], row["e_output"], row.get("e_est")) == ("hung_up", 25_020, None)


@pytest.mark.parametrize("error", [{"error": {"message": "no"}}, {"type": "error", "error": {"message": "no"}}])
async def test_an_image_that_its_backend_gives_up_is_not_counted(error: dict[str, Any]) -> None:
    tables, left = Tables(), Left(PARTIAL, error)
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry]) as app:
        await leave(app, await key(tables), "/v1/images/generations", IMAGES, left)
        assert "e_images" not in await counted(tables)


async def test_the_end_of_the_process_leaves_an_estimate_at_once() -> None:
    tables, left = Tables(), Left(WORD, FINISH, silent=True)
    async with backend("a", MODEL, left) as entry:
        async with gateway(tables, [entry]) as app:
            secret = await key(tables, Limits(token_quota=1_000_000))
            await leave(app, secret, "/v1/chat/completions", CHAT, left)
            late = app._running.backends.late
            assert len(late._tasks) == 1
            began = asyncio.get_running_loop().time()
            await late.close()
            assert asyncio.get_running_loop().time() - began < 4  # seconds; a report may take five
        row = await counted(tables)
    assert (row["e_ended"], row["e_est"], row["e_output"]) == ("hung_up", True, 1)
    assert 0 < used(tables) < 100


async def test_no_more_are_read_on_than_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_attempts, "_MOST", 0)
    tables, left = Tables(), Left(WORD, FINISH, after=CHAT_END)
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry]) as app:
        await leave(app, await key(tables), "/v1/chat/completions", CHAT, left)
        assert (await counted(tables))["e_est"] is True


async def test_the_slot_of_a_call_is_free_once_it_is_counted() -> None:
    tables, left = Tables(), Left(WORD, FINISH, after=CHAT_END)
    async with backend("a", MODEL, left) as entry, gateway(tables, [entry]) as app:
        secret = await key(tables, Limits(max_concurrent=1))
        await leave(app, secret, "/v1/chat/completions", CHAT, left)
        assert (await call(app, secret, "/v1/chat/completions", CHAT)).status == 429
        await counted(tables)
        assert (await call(app, secret, "/v1/chat/completions", CHAT)).status == 200
