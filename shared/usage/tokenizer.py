"""Counts tokens where no backend told them: a caller who hung up, a stream that broke off.

By tiktoken and OpenAI's own tables, which are shipped here (`vocabularies/`): tiktoken would fetch them from the net.
Loading one holds Python's lock for up to a second, during which every open stream would stutter: so a child
process counts, which begins with the first text to be counted and ends when it has had
nothing to do for a while. What it is given leaves its memory with the answer, and is never written.
"""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared.types import Outcome
from shared.usage._tokenizer_process import Counted, CountRequest, read, write

if TYPE_CHECKING:
    pass

logger = logging.getLogger("tollgate.ledger")

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 4 * 1024 * 1024  # of a body or of an answer's text to be counted: a second's work

_IDLE = 120.0  # seconds until the child process is ended
_MOST_WAITING = 32 * 1024 * 1024  # bytes of questions; who finds so many before it does without
_OVERHEAD = 4096  # bytes that a question counts for besides its own
# Seconds from a question to its answer. The first one includes the loading, which takes a second or two of a core, and
# much longer on a busy machine; nothing is urgent about a call whose caller has left.
_PATIENCE = 60.0
_LAST_PATIENCE = 10.0  # when the process ends
# Where packages are is the parent's to tell: the Functions worker finds them by no environment variable.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from shared.usage._tokenizer_process import main; main()"


def is_estimated(outcome: Outcome) -> bool:
    return outcome.usage.estimated or any(a.usage is not None and a.usage.estimated for a in outcome.attempts)


class Tokenizer:
    """Asks the child process, one question at a time, from a thread of its own."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0  # bytes of questions
        self._stopping = False

    def correct(
        self, outcome: Outcome, body: bytes, said: str, account: Callable[[Outcome], asyncio.Future[None]]
    ) -> asyncio.Future[None]:
        """Account for an outcome when its estimates have been counted; done when the account is."""

        async def count_first() -> None:
            model = outcome.usage.model or (outcome.served_by.model if outcome.served_by else "")
            counted = None
            try:
                counted = await self.count(CountRequest(model, body, said))
            except Exception:  # the account must not be lost over it
                logger.exception("tokens cannot be counted, and are estimated by characters")
            await account(counted.correct(outcome) if counted else outcome)

        task = asyncio.get_running_loop().create_task(count_first())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def count(self, question: CountRequest) -> Counted | None:
        """The tokens. None where they cannot be counted: the reason is logged, and an estimate has to do."""
        size = len(question.body) + len(question.said)
        if size > MOST_BYTES or self._waiting + size + _OVERHEAD > _MOST_WAITING:
            return None
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tokenizer")
        if self._ending is not None:
            self._ending.cancel()
        self._ending = loop.call_later(_IDLE, self._end_child)
        self._waiting += size + _OVERHEAD
        try:
            return await loop.run_in_executor(self._thread, self._ask, question, time.monotonic() + _PATIENCE)
        finally:
            self._waiting -= size + _OVERHEAD

    async def stop(self, patience: float = _LAST_PATIENCE) -> None:
        """Who still waits then does without."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        self._stopping = True
        if (child := self._child) is not None:
            child.kill()  # which ends the question under way
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._ending is not None:
            self._ending.cancel()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._end)
            thread.shutdown(wait=False)

    def _end_child(self) -> None:
        if self._thread is not None:
            self._thread.submit(self._end)

    def _ask(self, question: CountRequest, until: float) -> Counted | None:
        if self._stopping or (left := until - time.monotonic()) <= 0:
            return None
        if self._child is not None and self._child.poll() is not None:
            self._end()
        try:
            if (child := self._child) is None:
                child = self._child = subprocess.Popen(  # noqa: S603 - arguments of our own
                    [sys.executable, "-c", _CHILD, *sys.path],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            assert child.stdin is not None
            assert child.stdout is not None
            watch = threading.Timer(left, child.kill)
            watch.start()
            try:
                write(child.stdin, msgspec.msgpack.encode(question))
                return msgspec.msgpack.decode(read(child.stdout), type=Counted)
            finally:
                watch.cancel()
        except (OSError, EOFError, ValueError) as error:
            logger.warning("tokens cannot be counted, and are estimated by characters (%s)", type(error).__name__)
            self._end()
            return None

    def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.communicate()
