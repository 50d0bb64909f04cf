"""Detection of a caller that hangs up: its block is cancelled once, with its own error, and no other block is."""

import asyncio

import pytest

from shared.requests.disconnect import CallerConnection, CallerDisconnected


class Caller:
    """A caller that hangs up when `gone` is set."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.client = CallerConnection(self.receive)

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_the_block_of_a_caller_that_leaves_is_cancelled_with_its_own_error() -> None:
    caller = Caller()
    asyncio.get_running_loop().call_later(0.01, caller.gone.set)
    with pytest.raises(CallerDisconnected):
        async with caller.client:
            await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_caller_that_left_between_two_blocks_is_detected_in_the_second_one() -> None:
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
    await asyncio.sleep(0.01)  # no later code is cancelled


async def test_a_cancellation_from_elsewhere_stays_a_cancellation() -> None:
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
