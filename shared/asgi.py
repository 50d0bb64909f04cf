"""Edge 2: an ASGI app for local runs and containers, `uvicorn shared.asgi:app`. It also runs the timer's job."""

import asyncio
import gc
import logging
import os

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from shared import bootstrap
from shared.config import environment
from shared.errors import NO_WEBSOCKETS, ConfigurationError, NotSupported, StoreUnavailable
from shared.responses.rendering import error_response
from shared.telemetry.console import log_to_stdout

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
            settings = environment.load(os.environ)
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

    await error_response(NotSupported(NO_WEBSOCKETS), {})(scope, receive, send_denial)


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


log_to_stdout()
app = App()
