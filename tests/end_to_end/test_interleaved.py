"""Streams of many callers at once: each is charged its own tokens, also where they break off or their callers leave."""

import asyncio
import contextlib
import json
import re
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.harness.system import System, eventually, final

CALLERS = 8
_WORD = re.compile(rb'"(?:content|delta)":"((?:[^"\\]|\\.)+)"')


class Stream(msgspec.Struct):
    """The request of a caller, and its answer. `leave`: it hangs up after so many words."""

    key: str
    model: str
    tokens: int
    typed: bool = False
    leave: int = 0
    request_id: str = ""
    words: int = 0

    @property
    def body(self) -> dict[str, Any]:
        prompt = f"{'toll ' * self.tokens}simulate_output_tokens={self.tokens}"
        if self.typed:
            return {"model": self.model, "input": prompt, "stream": True, "store": False}
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], "stream": True}


async def read(session: aiohttp.ClientSession, url: str, stream: Stream) -> None:
    path = "/v1/responses" if stream.typed else "/v1/chat/completions"
    headers = {"authorization": f"Bearer {stream.key}"}
    data = b""
    async with session.post(url + path, json=stream.body, headers=headers) as answer:
        assert answer.status == 200
        stream.request_id = answer.headers["x-gateway-request-id"]
        with contextlib.suppress(aiohttp.ClientPayloadError):  # of a chat that breaks off
            async for piece in answer.content.iter_any():
                data += piece
                stream.words = len(b"".join(_WORD.findall(data)).split())
                if stream.leave and stream.words >= stream.leave:
                    answer.close()
                    return


async def read_all(url: str, streams: list[Stream]) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for stream in streams:
            group.create_task(read(session, url, stream))


def rows_of(system: System, streams: list[Stream]) -> dict[str, dict[str, Any]]:
    """The rows of these streams, whole, by request id."""
    rows: dict[str, dict[str, Any]] = {}

    def written() -> bool:
        for key in {stream.key for stream in streams}:
            rows.update({row["id"]: row for row in system.usage_rows(key)})
        return len(rows) == len(streams) and all(map(final, rows.values()))

    eventually(written)
    return rows


def test_streams_of_many_callers_are_each_charged_their_own_tokens(gateway: System) -> None:
    whole, cut = gateway.slow(), gateway.slow()
    gateway.simulator.fault("cut_stream", deployment=cut, after_chunks=9)
    streams = []
    for number in range(CALLERS):
        key, tokens = gateway.make_key(f"caller {number}"), 30 + 6 * number
        assert gateway.get("/gateway/usage/me", key).status == 200  # a busy table may not find eight keys in time
        for typed in (False, True):
            streams += [
                Stream(key, whole, tokens, typed),
                Stream(key, whole, 20 * tokens, typed, leave=10 + number),
                Stream(key, cut, tokens, typed),
            ]
    asyncio.run(read_all(gateway.url, streams))
    rows = rows_of(gateway, streams)
    truths = {entry["client_request_id"]: entry for entry in gateway.simulator.log()["requests"]}
    for stream in streams:
        row, truth, line = rows[stream.request_id], truths[stream.request_id], gateway.gateway.record(stream.request_id)
        assert row["s_key"] == line["consumer"] == stream.key.split("_")[1]
        assert (line["input_tokens"], line["output_tokens"]) == (row["e_input"], row["e_output"])
        if stream.model == cut:
            assert (row["e_ended"], row.get("e_est")) == ("cut", True)
            assert abs(row["e_output"] - truth["output_tokens"]) <= 1  # a word is a token to both tokenizers, or nearly
        elif stream.leave:
            assert (row["e_ended"], row.get("e_est")) == ("hung_up", True)
            assert stream.words <= row["e_output"] <= truth["output_tokens"] + 1
        else:
            assert (row["e_ended"], row.get("e_est")) == ("complete", None)
            assert stream.words == row["e_output"] == truth["output_tokens"] == stream.tokens
            assert row["e_input"] == truth["input_tokens"]
        assert abs(row["e_input"] - truth["input_tokens"]) <= 0.1 * truth["input_tokens"] + 5


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_arguments_of_a_tools_call_are_counted_where_their_stream_breaks_off(gateway: System, chunks: int) -> None:
    model, key = gateway.slow(), gateway.make_key("tools")
    gateway.simulator.fault("cut_stream", deployment=model, after_chunks=chunks)
    tool = {"type": "function", "name": "toll", "parameters": {"type": "object", "properties": {}}}
    body = {"model": model, "input": "simulate_tool_call", "tools": [tool], "stream": True}
    answer = gateway.post("/v1/responses", body, key=key)
    said = "".join(json.loads(text) for text in re.findall(r'"delta":("[^\n]*?[^\\]")[,}]', answer.body.decode()))
    assert said.startswith('{"pl')
    assert b"upstream_interrupted" in answer.body
    (row,) = rows_of(gateway, [Stream(key, model, 0)]).values()
    (truth,) = gateway.simulator.log()["requests"]
    assert (row["e_ended"], row["e_est"]) == ("cut", True)
    assert abs(row["e_output"] - truth["output_tokens"]) <= 1
