"""The one call that tries an ejected deployment again."""

import asyncio

import msgspec

from tests.harness.patience import PATIENCE
from tests.harness.scripted_backends import Exchange, chat, completion, forwarding


async def test_a_deployment_whose_probe_is_told_to_wait_is_back_after_that_wait() -> None:
    answers = [500, 500, 500, 429]

    async def recovering(exchange: Exchange) -> None:
        if answers:
            exchange.answer({"error": {"message": "No."}}, answers.pop(0), retry_after_ms="300")
        else:
            exchange.answer(completion())

    async def serving(exchange: Exchange) -> None:
        exchange.answer(completion())

    async with forwarding(recovering, serving) as (running, (backend, _)):
        state = running.state("a")

        async def ask() -> None:
            answer = await running.sending(chat()).run()
            answer.close()
            assert answer.status == 200

        async with asyncio.timeout(PATIENCE):
            while len(answers) > 1:
                await ask()
        assert state.health.half_open
        state.health = msgspec.structs.replace(state.health, ejected_until=0.0)  # as if its time were over
        async with asyncio.timeout(PATIENCE):
            while answers:
                await ask()
        assert not state.health.half_open
        await asyncio.sleep(0.4)
        before = len(backend.received)
        for _ in range(6):
            await ask()
        assert len(backend.received) - before == 3
