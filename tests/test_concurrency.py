import asyncio

import pytest

from shared.concurrency import LruDict, SingleFlight, Tasks


async def test_tasks_finish_within_their_time_and_the_rest_is_cancelled_and_counted() -> None:
    tasks, done = Tasks(), []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        done.append(seconds)

    tasks.start(work(0.0))
    slow = tasks.start(work(60.0))
    assert len(tasks) == 2
    assert await tasks.finish(0.05) == 1
    assert done == [0.0]
    assert slow.cancelled()
    assert len(tasks) == 0
    assert await tasks.finish(0.05) == 0


async def test_callers_of_a_single_flight_share_one_run_and_the_next_caller_starts_another() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    started, go = [0], asyncio.Event()

    async def read() -> int:
        started[0] += 1
        await go.wait()
        return started[0]

    callers = [asyncio.ensure_future(flight.run("a", read)) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*callers[1:]) == [1, 1]
    assert await flight.run("a", read) == 2


async def test_a_failed_run_raises_for_its_callers_and_is_not_remembered() -> None:
    flight: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        raise ValueError("no")

    async def succeed() -> int:
        return 1

    with pytest.raises(ValueError, match="no"):
        await flight.run("a", fail)
    assert await flight.run("a", succeed) == 1
    flight.start("a", fail)  # nobody awaits it: no warning of an exception never retrieved
    await asyncio.sleep(0.01)
    await flight.close()


def test_an_lru_dict_drops_what_was_used_longest_ago() -> None:
    cache: LruDict[str, int] = LruDict(2)
    cache["a"], cache["b"] = 1, 2
    cache.move_to_end("a")
    cache["c"] = 3
    assert dict(cache) == {"a": 1, "c": 3}
    cache["a"] = 4
    cache["d"] = 5
    assert dict(cache) == {"a": 4, "d": 5}
