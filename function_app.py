"""Edge 1: Azure Functions. Bindings only; everything else lives in `shared/`."""

import logging
import os

import azure.functions as func
from starlette.requests import Request
from starlette.responses import Response

from shared import bootstrap
from shared.functions_http import WebApp, log_to_stderr

application = bootstrap.OnDemand(os.environ)
WebApp.stop = application.close
log_to_stderr()
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
