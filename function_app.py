"""Edge 1: Azure Functions. Bindings only; everything else lives in `shared/`."""

import functools
import logging
import os

import azure.functions as func
import azurefunctions.extensions.http.fastapi.web as worker_web
from azurefunctions.extensions.http.fastapi import Request, Response
from uvicorn.config import LOGGING_CONFIG

from shared import bootstrap
from shared.worker_http import WorkerHttp

application = bootstrap.OnDemand(os.environ)
worker_web.FastAPI = functools.partial(WorkerHttp, application.close)  # see there
# One line a request is the gateway's own. Said here because the worker's uvicorn sets up logging after this import.
LOGGING_CONFIG["loggers"]["uvicorn.access"] = {"handlers": [], "propagate": False}
logging.getLogger("azure").setLevel(logging.WARNING)  # the worker logs three lines a request, the SDK twenty
logging.getLogger("tollgate").setLevel(logging.INFO)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


# The methods are named so that the host itself refuses others: one that the worker's HTTP server does not know never
# reaches the handler, and its invocation would wait for it for ever.
@app.route(route="{*path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def gateway(req: Request, context: func.Context) -> Response:
    """Every path: the gateway's own table of operations decides what is served. The invocation knows the host's span;
    the request's headers may have the caller's."""
    return await (await application.get()).gateway.handle(req, context.trace_context.trace_parent)


@app.timer_trigger(schedule="0 */5 * * * *", arg_name="timer")
async def rollup(timer: func.TimerRequest) -> None:
    """Raw usage to hours, days and months."""
    await (await application.get()).roll_up()
