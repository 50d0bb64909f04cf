"""Edge 1: Azure Functions. Bindings only; everything else lives in `shared/`."""

import importlib
import logging
import os
import sys

import azure.functions as func

# The host refuses other methods itself: they never reach the worker.
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

# The HTTP server inside the worker, by GATEWAY_HTTP_SERVER. Microsoft's is for the day on which an update of the
# platform breaks ours.
SERVERS = {"tollgate": "shared.functions_http", "microsoft": "azurefunctions.extensions.http.fastapi"}

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

try:
    if sys.version_info < (3, 13):  # noqa: UP036 - the platform's Python is the app's setting
        raise RuntimeError(f"expected Python 3.13 or newer, got {sys.version.split()[0]}")
    from starlette.requests import Request
    from starlette.responses import Response

    from shared.edges import on_demand
    from shared.telemetry.console import log_to_stderr

    server = os.environ.get("GATEWAY_HTTP_SERVER") or "tollgate"
    if server not in SERVERS:
        raise RuntimeError(f"GATEWAY_HTTP_SERVER: expected {' or '.join(SERVERS)}, got {server}")
    importlib.import_module(SERVERS[server])  # the worker takes the one that is imported
except Exception as error:  # a Python or packages that do not fit; the host would hide the reason
    print(f"ERROR: the gateway cannot start: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    @app.route(route="{*path}", methods=METHODS)
    async def unavailable(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """503 in OpenAI's shape, by the worker's own HTTP, which needs nothing that may be missing. Its id is that of
        the invocation in the host's log."""
        body = (
            '{"error":{"message":"This gateway cannot start. The operator can find the reason in the log.",'
            '"type":"server_error","param":null,"code":"misconfigured"}}'
        )
        ids = dict.fromkeys(("x-request-id", "x-gateway-request-id", "apim-request-id"), context.invocation_id)
        return func.HttpResponse(body, status_code=503, mimetype="application/json", headers=ids)

else:
    log_to_stderr()
    logging.getLogger("azure").setLevel(logging.WARNING)  # the worker logs three lines a request, the SDK twenty
    logging.getLogger("tollgate").setLevel(logging.INFO)
    application = on_demand.OnDemand(os.environ)

    @app.route(route="{*path}", methods=METHODS)
    async def gateway(req: Request, context: func.Context) -> Response:
        """Every path: the gateway's own table of operations decides what is served. The invocation knows the host's
        span; the request's headers may have the caller's."""
        return await application.handle(req, context.trace_context.trace_parent)

    @app.timer_trigger(schedule="0 */5 * * * *", arg_name="timer")
    async def rollup(timer: func.TimerRequest) -> None:
        """Raw usage to hours, days and months."""
        await application.roll_up()
