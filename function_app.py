"""Edge 1: Azure Functions. Bindings only; everything else lives in `shared/`."""

import functools
import logging
import os

import azure.functions as func
import azurefunctions.extensions.http.fastapi.web as worker_web
from azurefunctions.extensions.http.fastapi import Request, Response

from shared import bootstrap

# The worker serves HTTP with a FastAPI app of its own, whose pages /docs, /redoc and /openapi.json would answer in our
# place and leave the invocation waiting for ever; its telemetry would double the host's.
worker_web.FastAPI = functools.partial(
    worker_web.FastAPI,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
)
logging.getLogger("uvicorn.access").disabled = True  # one line a request is the gateway's own
logging.getLogger("azure").setLevel(logging.WARNING)  # the worker logs three lines a request, the SDK twenty
logging.getLogger("tollgate").setLevel(logging.INFO)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
application = bootstrap.OnDemand(os.environ)


@app.route(route="{*path}")
async def gateway(req: Request) -> Response:
    """Every path: the gateway's own table of operations decides what is served."""
    return await (await application.get()).gateway.handle(req)


@app.timer_trigger(schedule="0 */5 * * * *", arg_name="timer")
async def rollup(timer: func.TimerRequest) -> None:
    """Raw usage to hours, days and months."""
    await (await application.get()).roll_up()
