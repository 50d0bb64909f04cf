"""Edge 2: an ASGI app for local runs and containers, `uvicorn shared.asgi:app`. It also runs the timer's job."""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import time
from typing import TextIO

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from shared import bootstrap
from shared.config import document
from shared.errors import NO_WEBSOCKETS, ConfigurationError, NotSupported, StoreUnavailable
from shared.responses.relay import refusal

logger = logging.getLogger("tollgate")

_ROLL_UP_EVERY = 300.0  # seconds, as the timer of the Functions edge


class App:
    """Serves HTTP and the lifespan. The application lives from the lifespan's start-up to its shutdown."""

    def __init__(self) -> None:
        self._application: bootstrap.Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._application is not None:
            response = await self._application.gateway.handle(Request(scope, receive))
            await response(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
        else:
            raise RuntimeError("The gateway was not started: run it with the ASGI lifespan on.")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            settings = document.load(os.environ)
            async with bootstrap.application(settings) as self._application:
                timer = asyncio.ensure_future(_every(_ROLL_UP_EVERY, self._application))
                started = True
                _spare_the_collector()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                timer.cancel()
                self._application = None
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        except Exception as error:  # whatever it is, a gateway that cannot start must not seem to run
            logger.exception("the gateway cannot run")
            stage = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{stage}.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """What answers GET with an upgrade, where the server tells WebSockets apart, in HTTP's words if it can."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "WebSockets are not served here."})
        return

    async def send_denial(message: Message) -> None:
        await send({**message, "type": message["type"].replace("http.", "websocket.http.", 1)})

    await refusal(NotSupported(NO_WEBSOCKETS), {})(scope, receive, send_denial)


async def _every(seconds: float, application: bootstrap.Application) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await application.roll_up()
        except StoreUnavailable as error:
            logger.warning("roll-up put off: %s", error)
        except Exception:
            logger.exception("roll-up failed")


def _spare_the_collector() -> None:
    """What was made until now stays for good: the collector need not look at it again. A call leaves hardly any cycles,
    so that looking for them can be rarer, too: together some 4 % of a call's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _Lines(logging.Formatter):
    """One line an event: time, level, logger, message. The time's text is made once a second, since every call logs."""

    _second = 0
    _text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._text},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info or record.args:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.name} {record.msg}"


class _Together(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop together: calls end in groups, as their rows are written, and a
    write for each would be a good part of what a line costs. From a warning on, lines are written at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            if record.levelno < logging.WARNING:
                with contextlib.suppress(RuntimeError):  # no loop runs: there are no turns
                    loop = asyncio.get_running_loop()
                    if len(self._lines) == 1:
                        loop.call_soon(self.flush)
                    return
            self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self.acquire()
        try:
            if self._lines:
                lines, self._lines = self._lines, []
                self.stream.write("\n".join([*lines, ""]))
            super().flush()
        finally:
            self.release()


def _log_to_stdout() -> None:
    """As containers expect. Where the host has set up logging of its own, that is used."""
    root = logging.getLogger("tollgate")
    root.setLevel(logging.INFO)
    if not logging.getLogger().handlers and not root.handlers:
        handler = _Together(sys.stdout)
        handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s %(message)s"))
        root.addHandler(handler)
        root.propagate = False
        # The logging HOWTO's "Optimization": what no line of ours shows need not be gathered for each.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging.logAsyncioTasks = False  # type: ignore[attr-defined]
        logging._srcfile = None


_log_to_stdout()
app = App()
