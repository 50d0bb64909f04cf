"""Noticing that a caller hangs up: cancelled once, told as what it is, and never in somebody else's block."""

import asyncio

import pytest

from shared.requests.disconnect import CallerConnection, CallerDisconnected


class Caller:
    """A caller who hangs up when told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.client = CallerConnection(self.receive)

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_block_for_a_caller_who_leaves_is_cancelled_and_told_so() -> None:
    caller = Caller()
    asyncio.get_running_loop().call_later(0.01, caller.gone.set)
    with pytest.raises(CallerDisconnected):
        async with caller.client:
            await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_caller_who_left_between_two_blocks_is_noticed_in_the_second_one() -> None:
    caller = Caller()
    async with caller.client:
        caller.gone.set()
        await asyncio.sleep(0)  # the listener ends now; its callback is on its way
    with pytest.raises(CallerDisconnected):
        async with caller.client:
            await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.01)  # nothing is left that would cancel what comes after


async def test_somebody_elses_cancellation_stays_one() -> None:
    caller = Caller()

    async def work() -> None:
        async with caller.client:
            await asyncio.sleep(5)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    caller.gone.set()
