"""Errors that only a body has asked for, by a model or a payer that it names beside its own model."""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.process.application import Application
from tests.harness.in_process import Exchange, Tables, backend, call, gateway, key

CLAUDE = "claude-haiku-5-5"
ANSWER = {"id": "msg_1", "type": "message", "content": [], "usage": {"output_tokens": 1}}
PAYER = {"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}}
BUSY = {"fallbacks": [{"model": "busy"}]}
MANY = 130  # calls, more than a process may try again after failures
UNLINKED = "The user profile is not linked."


def said(**fields: Any) -> dict[str, Any]:
    return {"model": CLAUDE, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **fields}


def batched(**fields: Any) -> dict[str, Any]:
    return {"requests": [{"custom_id": "one", "params": said(**fields)}]}


@contextlib.asynccontextmanager
async def pool(asked: Counter[str], refuse: str, status: int, message: str) -> AsyncIterator[tuple[Application, str]]:
    """Two backends, `a` before `b`, and a key. Those in `refuse` answer this error to all that is not honest."""

    def one(name: str) -> Any:
        async def script(exchange: Exchange) -> None:
            asked[name] += 1
            if name not in refuse or b"honest" in exchange.body:
                exchange.answer(200, ANSWER)
            else:
                exchange.answer(status, {"type": "error", "error": {"type": "some_error", "message": message}})

        return backend(name, {CLAUDE: CLAUDE}, script)

    tables, kind = Tables(), {"kind": "anthropic"}
    async with one("a") as a, one("b") as b, gateway(tables, [a | kind, b | kind | {"priority": 2}]) as application:
        yield application, await key(tables)


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "tried", "calls"),
    [
        ("/v1/messages", said(**PAYER), 402, UNLINKED, "a", 1),
        ("/v1/messages", said(**PAYER), 403, UNLINKED, "a", 1),
        ("/v1/messages/batches", batched(**PAYER), 403, UNLINKED, "a", 1),
        ("/v1/messages", said(**BUSY), 402, "No credit is left for busy.", "a", 1),
        ("/v1/messages", said(**BUSY), 403, "You may not use busy.", "a", 1),
        ("/v1/messages", said(**BUSY), 429, "model busy: rate limit", "ab", MANY),
        ("/v1/messages", said(**BUSY), 529, "model busy: overloaded", "ab", 1),
    ],
)
async def test_what_a_body_has_asked_for_takes_no_deployment_out(
    path: str, body: dict[str, Any], status: int, message: str, tried: str, calls: int
) -> None:
    asked = Counter[str]()
    async with pool(asked, "ab", status, message) as (application, text):
        for _ in range(calls):
            refused = await call(application, text, path, body)
            assert (refused.status, json.loads(refused.body)["error"]["message"][: len(message)]) == (status, message)
        assert asked == Counter(tried * calls)
        assert not application._running.backends.breakers.ejected()
        honest = await call(application, text, "/v1/messages", said(system="honest"))
        assert (honest.status, asked) == (200, Counter("a" + tried * calls))


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 402, UNLINKED),
        (PAYER, 401, "The key is wrong."),
        (BUSY, 403, "You may not use this."),
        (BUSY, 429, "This would exceed the rate limit of your organization."),
    ],
)
async def test_what_concerns_the_deployment_takes_it_out(fields: dict[str, Any], status: int, message: str) -> None:
    asked = Counter[str]()
    async with pool(asked, "a", status, message) as (application, text):
        for body in (said(**fields), said(system="honest")):
            assert (await call(application, text, "/v1/messages", body)).status == 200
    assert asked == Counter("abb")
