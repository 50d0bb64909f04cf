"""Counts tokens where no backend reported usage: the caller hung up, or the stream broke off.

It uses tiktoken and OpenAI's token tables, which are shipped (`vocabularies/`) so that nothing is downloaded. Loading a
table holds Python's lock for up to a second, and every open stream would stutter. So a child process counts: it starts
with the first request and ends after a while without one. Texts stay in its memory only until it answers.
"""

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from shared.concurrency import Tasks
from shared.types import Outcome
from shared.usage._tokenizer_process import Counted, CountRequest, read, write

logger = logging.getLogger("tollgate.ledger")

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 4 * 1024 * 1024  # of a body or an answer's text that are counted: a second's work

_IDLE = 120.0  # seconds without requests until the child process ends
_MOST_WAITING = 32 * 1024 * 1024  # bytes of waiting requests; beyond that, tokens are estimated
_OVERHEAD = 4096  # bytes that each request adds to its own
# Seconds from a request to its answer. The first one includes loading a table: one or two seconds of a core, and much
# longer on a busy machine. A call whose caller has left is not urgent.
_TIMEOUT = 60.0
_TIMEOUT_AT_EXIT = 10.0
# The parent passes its own path on, because the Functions worker does not set it by environment variables.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from shared.usage._tokenizer_process import main; main()"


# Families of models with other tables than OpenAI's: their tokens are estimated by characters.
_OTHER = re.compile(r"claude|deepseek|grok|llama|ministral|mistral|codestral|pixtral|phi-|command-|kimi|qwen|mai-")


def fits(model: str) -> bool:
    """True if OpenAI's tables may count the tokens of a model with this name."""
    return _OTHER.search(model.lower()) is None


def is_estimated(outcome: Outcome) -> bool:
    return outcome.usage.estimated or any(a.usage is not None and a.usage.estimated for a in outcome.attempts)


class Tokenizer:
    """The child process, and the one thread that sends it requests, one at a time."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._waiting = 0  # bytes of requests
        self._stopping = False

    def correct(self, outcome: Outcome, body: bytes, text: str, account: Callable[[Outcome | None], None]) -> None:
        """Count the estimated tokens of an outcome in the background, then call `account` with the corrected outcome;
        None: they cannot be counted."""

        async def count() -> None:
            model = outcome.usage.model or (outcome.served_by.model if outcome.served_by else "")
            served_by, counted = outcome.served_by, None
            names = " ".join((model, served_by.model, served_by.deployment) if served_by else (model,))
            try:
                counted = await self.count(CountRequest(model, body, text)) if fits(names) else None
            except Exception:  # the outcome must be accounted for
                logger.exception("cannot count tokens; estimated by characters")
            account(counted.correct(outcome) if counted else None)

        self._tasks.start(count())

    async def count(self, request: CountRequest) -> Counted | None:
        """Return the tokens; None if they cannot be counted, with the reason in the log."""
        size = len(request.body) + len(request.text)
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
            return await loop.run_in_executor(self._thread, self._ask, request, time.monotonic() + _TIMEOUT)
        finally:
            self._waiting -= size + _OVERHEAD

    async def close(self, seconds: float = _TIMEOUT_AT_EXIT) -> None:
        """Answer waiting requests for this long; the tokens of the rest stay estimates."""
        giving_up = asyncio.get_running_loop().call_later(seconds, self._give_up)
        await self._tasks.finish(seconds + 1.0)
        giving_up.cancel()
        self._give_up()
        if self._ending is not None:
            self._ending.cancel()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._end)
            thread.shutdown(wait=False)

    def _give_up(self) -> None:
        self._stopping = True
        if (child := self._child) is not None:
            child.kill()  # which ends the request under way

    def _end_child(self) -> None:
        if self._thread is not None:
            self._thread.submit(self._end)

    def _ask(self, request: CountRequest, until: float) -> Counted | None:
        if self._stopping or (left := until - time.monotonic()) <= 0:
            return None
        if self._child is not None and self._child.poll() is not None:
            self._end()
        try:
            if (child := self._child) is None:
                child = self._child = subprocess.Popen(  # noqa: S603 - fixed arguments
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
                write(child.stdin, msgspec.msgpack.encode(request))
                return msgspec.msgpack.decode(read(child.stdout), type=Counted)
            finally:
                watch.cancel()
        except (OSError, EOFError, ValueError) as error:
            logger.warning("cannot count tokens (%s); estimated by characters", type(error).__name__)
            self._end()
            return None

    def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.communicate()
