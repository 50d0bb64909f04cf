"""The id of a call in the log lines of its task, as an operator greps for them."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from shared.concurrency import SingleFlight, Tasks
from shared.config.limits import Limits
from shared.telemetry.console import log_to_stderr
from shared.telemetry.request_ids import current_request, identified
from tests.harness.in_process import Exchange, Tables, backend, call, chat, gateway, key

CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    loggers = [logging.getLogger(name) for name in ("tollgate", "asyncio")]
    before = [(list(one.handlers), one.propagate, one.level) for one in loggers]
    for one in loggers:
        one.handlers = []
    log_to_stderr()
    loggers[0].setLevel(logging.INFO)
    yield written
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


async def test_every_line_of_a_call_bears_its_id_also_those_that_a_package_logs_without_it(
    stderr: io.StringIO,
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.fields["messages"][0]["content"] == "hi":
            exchange.answer(401, {"error": {"code": "401", "message": "no"}})
        else:
            exchange.answer(200, chat())

    tables = Tables()
    async with backend("one", {"m": "m"}, script) as entry, gateway(tables, [entry]) as application:
        limited = await key(tables, Limits(requests_per_minute=1))
        other = CALL | {"messages": [{"role": "user", "content": "ok"}]}
        served, refused = await asyncio.gather(
            call(application, limited, "/v1/chat/completions", other),
            call(application, await key(tables), "/v1/chat/completions", CALL),
        )
        over = await call(application, limited, "/v1/chat/completions", other)
    assert refused.status >= 500
    assert over.status == 429
    lines = stderr.getvalue().splitlines()
    alerts = [line for line in lines if "ALERT backend" in line]
    assert len(alerts) == 1
    assert served.status == 200
    assert refused.headers["x-gateway-request-id"] in alerts[0]
    exceeded = [json.loads(line[line.index("{") :]) for line in lines if '"limit_exceeded"' in line]
    assert [line["request"] for line in exceeded] == [over.headers["x-gateway-request-id"]]
    assert not any(line.count(served.headers["x-gateway-request-id"]) > 1 for line in lines)


async def test_tasks_that_serve_many_calls_bear_the_id_of_none() -> None:
    async def seen() -> None:
        ids.append(current_request.get())

    ids: list[str] = []
    current_request.set("01CALL")
    await Tasks().start(seen())
    await Tasks(shared=True).start(seen())
    await SingleFlight[str, None]().run("key", seen)
    assert ids == ["01CALL", "", ""]
    assert identified("01CALL: once") == "01CALL: once"
