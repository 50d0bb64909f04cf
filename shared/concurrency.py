"""Building blocks for asyncio: background tasks, shared runs, and bounded caches."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any


def start_shared[V](coroutine: Coroutine[Any, Any, V]) -> asyncio.Task[V]:
    """Start a task that serves many calls: its log lines bear the id of none."""
    return asyncio.get_running_loop().create_task(coroutine, context=Context())


class Tasks:
    """Background tasks of one owner. Each is referenced until it ends: the event loop keeps only weak references.

    `shared`: they serve many calls, as in `start_shared`."""

    def __init__(self, *, shared: bool = False) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
        self._start = start_shared if shared else asyncio.ensure_future

    def __len__(self) -> int:
        return len(self._tasks)

    def start[V](self, coroutine: Coroutine[Any, Any, V]) -> asyncio.Task[V]:
        """Run a coroutine in the background. It handles its own errors."""
        return self.add(self._start(coroutine))

    def add[V](self, task: asyncio.Task[V]) -> asyncio.Task[V]:
        """Take over a task that runs already."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, seconds: float) -> int:
        """Wait for all tasks, cancel those that take longer, and return the number cancelled."""
        pending: set[asyncio.Task[Any]] = set()
        if self._tasks:
            _, pending = await asyncio.wait(tuple(self._tasks), timeout=seconds)
        await self.close()
        return len(pending)

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SingleFlight[K: Hashable, V]:
    """At most one run per key at a time, whose result all callers share. A caller that is cancelled leaves the run to
    the others."""

    def __init__(self) -> None:
        self._runs: dict[K, asyncio.Task[V]] = {}

    def start(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """Return the run under way for this key, or start one. Nobody has to await it."""
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = start_shared(make())
            run.add_done_callback(lambda ended: self._ended(key, ended))
        return run

    async def run(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return the result of the run under way for this key, or of a new one."""
        return await asyncio.shield(self.start(key, make))

    async def close(self) -> None:
        """Cancel all runs, and wait until they have ended."""
        runs = tuple(self._runs.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    def _ended(self, key: K, run: asyncio.Task[V]) -> None:
        self._runs.pop(key, None)
        if not run.cancelled():
            run.exception()  # marks it as retrieved, for a run that nobody awaits


class LruDict[K: Hashable, V](OrderedDict[K, V]):
    """A dict of at most `size` entries. Setting a key makes it the newest, and drops the oldest entry beyond the size;
    `move_to_end` marks a use."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._size:
            self.popitem(last=False)
