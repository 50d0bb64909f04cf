"""Edge 2: an ASGI app for local runs and containers, `uvicorn shared.asgi:app`. It also runs the timer's job."""

import asyncio
import logging
import os
import sys

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from shared import bootstrap, config
from shared.errors import ConfigurationError, StoreUnavailable

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
            await send({"type": "websocket.close", "code": 1008, "reason": "WebSockets are not served here."})
        else:
            raise RuntimeError("The gateway was not started: run it with the ASGI lifespan on.")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            settings = config.load(os.environ)
            async with bootstrap.application(settings) as self._application:
                timer = asyncio.ensure_future(_every(_ROLL_UP_EVERY, self._application))
                started = True
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


async def _every(seconds: float, application: bootstrap.Application) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await application.roll_up()
        except StoreUnavailable as error:
            logger.warning("roll-up put off: %s", error)
        except Exception:
            logger.exception("roll-up failed")


def _log_to_stdout() -> None:
    """One line an event, as containers expect. Where the host has set up logging of its own, that is used."""
    root = logging.getLogger("tollgate")
    root.setLevel(logging.INFO)
    if not logging.getLogger().handlers and not root.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        root.addHandler(handler)
        root.propagate = False
        # The logging HOWTO's "Optimization": what no line of ours shows need not be gathered for each.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging.logAsyncioTasks = False  # type: ignore[attr-defined]


_log_to_stdout()
app = App()
