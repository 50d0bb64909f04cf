"""Refusals where no call exists yet: a head that cannot be read, a WebSocket, a gateway without a configuration.

Each has an id as the answers to calls have it, and a line in the log by which the operator finds it."""

import logging
import time
from collections.abc import Mapping

import msgspec

from shared import ulid
from shared.errors import GatewayError
from shared.responses.rendering import ErrorResponse, identify

logger = logging.getLogger("tollgate.requests")

_NONE: Mapping[str, str] = {}


def early_refusal(error: GatewayError, headers: Mapping[str, str] = _NONE) -> ErrorResponse:
    """The refusal as a response. `headers`: of the request, as far as they were read."""
    response = ErrorResponse(error, {"x-gateway-request-id": ulid.new(time.time())})
    line = {"request": response.request_id, "status": error.status, "code": error.code}
    logger.info(msgspec.json.encode(line).decode())
    identify(response, response.request_id, headers.get("x-ms-client-request-id", ""))
    return response
