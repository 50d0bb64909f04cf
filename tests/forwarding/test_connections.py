"""Backends that close connections, and the first events of streams."""

import asyncio

import pytest

from shared.errors import NoBackendAvailable
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.response import OpenAnswer
from tests.harness.scripted_backends import Exchange, chat, completion, forwarding


@pytest.mark.parametrize("backends", [1, 3])
async def test_a_call_is_sent_once_more_on_a_fresh_connection_if_every_backend_had_closed_an_idle_one(
    backends: int,
) -> None:
    used: set[int] = set()

    async def closing(exchange: Exchange) -> None:
        """Answer the first request of a connection; close it when a second one comes."""
        if exchange.connection in used:
            exchange.hang_up()
            return
        used.add(exchange.connection)
        exchange.answer(completion())

    async with forwarding(*[closing] * backends) as (running, servers):
        # Two connections each: the pool has another old one where the first has just failed.
        both = await asyncio.gather(*(running.sending(chat()).run() for _ in range(2 * backends)))
        assert {answer.status for answer in both} == {200}
        sending = running.sending(chat())
        answer = await sending.run()
        assert answer.status == 200
        assert len(sending.attempts) == backends + 1
        assert all(server.received for server in servers)


async def test_a_backend_that_closes_every_connection_is_asked_twice_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def closing(exchange: Exchange) -> None:
        exchange.hang_up()

    async with forwarding(closing) as (running, backends):
        with pytest.raises(ForwardingFailed) as failed:
            await running.sending(chat()).run()
        assert isinstance(failed.value.error, NoBackendAvailable)
        assert len(backends[0].received) == 2
    assert "r0: no backend left: " in caplog.text  # the call's id, which its caller was told


@pytest.mark.parametrize("name", ["image_generation.completed", ""])
async def test_a_first_event_of_more_than_four_megabytes_commits_the_stream(name: str) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.stream()
        picture = "A" * 5_000_000
        await exchange.event({"type": "image_generation.completed", "b64_json": picture}, name)
        exchange.end()

    async with forwarding(script, script) as (running, backends):
        answer = await running.sending(chat(stream=True)).run()
        assert isinstance(answer, OpenAnswer)
        answer.close()
        assert sum(len(backend.received) for backend in backends) == 1
