"""Receives every request, separates calls from the gateway's own paths, and turns errors into responses."""

import logging
import time

from starlette.requests import Request
from starlette.responses import Response

from shared.accounting import Accounting
from shared.anthropic.operations import is_messages_path
from shared.azure_openai import operations
from shared.config.document import Configuration, Format
from shared.errors import GatewayError
from shared.gateway import Gateway
from shared.management.api import ManagementApi
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerDisconnected
from shared.requests.entrance import Entrance
from shared.responses.cors import Cors
from shared.responses.hang_up import HUNG_UP
from shared.responses.messages_headers import name_headers
from shared.responses.rendering import ErrorResponse, identify

logger = logging.getLogger("tollgate.requests")

_PROBES = frozenset(("/healthz", "/readyz"))  # the platform's may come from anywhere
_FOR_RESPONSE = frozenset((b"origin", b"x-ms-client-request-id", b"anthropic-version"))  # which the response answers
# A browser must not render an answer: on the origin of the page, a backend's HTML could read what the page keeps.
# The page's own files have the first header already.
_NO_SNIFFING = b"x-content-type-options"
_INERT = ((_NO_SNIFFING, b"nosniff"), (b"content-security-policy", b"default-src 'none'; sandbox"))


class Front:
    """Answers requests by one configuration."""

    def __init__(
        self, gateway: Gateway, management: ManagementApi, accounting: Accounting, configuration: Configuration
    ) -> None:
        self._gateway = gateway
        self._management = management
        self._accounting = accounting
        self._entrance = Entrance(configuration)
        self._cors = Cors(configuration.cors.origins)

    async def handle(self, request: Request, traceparent: str | None = None) -> Response:
        """Answer a request. Raises nothing except `CancelledError`. `traceparent` overrides the request's header."""
        received = self._accounting.receive(request, traceparent)
        raw = request.scope["headers"]
        own = {str(name, "latin-1"): value.decode("latin-1") for name, value in raw if name in _FOR_RESPONSE}
        form: Format = "anthropic" if is_messages_path(received.path, own) else "openai"
        response = await self._handle(request, received, form)
        identify(response, received.request_id, own.get("x-ms-client-request-id", ""))
        if form == "anthropic":
            name_headers(response.headers, received.request_id, time.time())
        if _NO_SNIFFING not in dict(response.raw_headers):
            response.raw_headers.extend(_INERT)
        self._cors.expose(own.get("origin", ""), response)
        return response

    async def _handle(self, request: Request, received: ReceivedRequest, form: Format) -> Response:
        try:
            return await self._serve(request, received)
        except GatewayError as error:
            return self._refuse(received, error, form)
        except CallerDisconnected:
            return Response(status_code=HUNG_UP)
        except Exception:  # the last resort: the caller gets OpenAI's shape, the operator the traceback
            logger.exception("request %s failed: unexpected error", received.request_id)
            defect = GatewayError("Internal gateway error. The operator can find the reason in the log.")
            return self._refuse(received, defect, form)

    async def _serve(self, request: Request, received: ReceivedRequest) -> Response:
        headers, address = self._entrance.admit(request.scope, from_anywhere=received.path in _PROBES)
        if (permission := self._cors.preflight(received.method, headers)) is not None:
            return permission
        if received.path == "/" and received.method == "HEAD":
            return Response()  # Claude Code asks if there is anybody before its first call
        operations.reject_foreign(received.path)
        if self._management.owns(received.path):
            return await self._management.answer(request, received, headers, address)
        return await self._gateway.serve(request, received, headers, address)

    def _refuse(self, received: ReceivedRequest, error: GatewayError, form: Format) -> Response:
        self._accounting.refused(received, error)
        return ErrorResponse(error, {"x-gateway-request-id": received.request_id}, form)
