"""Serves upgrades to WebSockets: authenticate, admit, route and connect, then relay until one side ends it.

What is refused before the upgrade is answered as HTTP; what is refused later is an event, and ends nothing but the
response that it answers, unless the caller may not go on at all.
"""

import logging
import time
from functools import partial

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from shared.azure_openai import sockets
from shared.config.document import Configuration
from shared.errors import GatewayError
from shared.requests.arrival import ReceivedRequest
from shared.requests.entrance import Entrance
from shared.requests.websockets import chosen_subprotocol, with_subprotocols
from shared.responses.rendering import ErrorResponse, identify
from shared.sockets import _endings
from shared.sockets._caller import CallerClosed, CallerSocket
from shared.sockets._conversation import Conversation
from shared.sockets._pin import Pin
from shared.sockets.admission import AdmittedConnection, SocketAdmission, Stages
from shared.sockets.connection import Connection

logger = logging.getLogger("tollgate.sockets")


class Sockets:
    """Serves WebSockets by one configuration. A connection ends with the one that it began with."""

    def __init__(self, admission: SocketAdmission, stages: Stages, configuration: Configuration) -> None:
        self._admission = admission
        self._stages = stages
        self._configuration = configuration
        self._entrance = Entrance(configuration)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an upgrade, from its arrival to the end of the connection. Raises nothing except `CancelledError`."""
        await receive()  # websocket.connect
        caller = CallerSocket(scope, receive, send)
        request = Request({**scope, "type": "http", "method": "GET"})  # which an upgrade is
        received = self._stages.accounting.receive(request, None)
        try:
            await self._serve(caller, request, received)
        except GatewayError as error:
            await self._refuse(caller, request, received, error)
        except CallerClosed:
            pass
        except Exception:  # the last resort: the caller gets OpenAI's shape, the operator the traceback
            logger.exception("upgrade %s failed: unexpected error", received.request_id)
            defect = GatewayError("Internal gateway error. The operator can find the reason in the log.")
            await self._refuse(caller, request, received, defect)

    async def _serve(self, caller: CallerSocket, request: Request, received: ReceivedRequest) -> None:
        configuration, limiter = self._configuration, self._admission.limiter
        headers, address = self._entrance.admit(request.scope)
        headers = with_subprotocols(headers, request.scope.get("subprotocols", ()))
        headers.pop("idempotency-key", None)  # callers share the backends' keys, and a connection has many calls
        consumer, model, held = None, "", None
        try:
            held = await self._admission.arrive(address)
            consumer = await self._admission.consumer(headers, address)
            call = sockets.opened(received.path, request.scope["query_string"].decode("latin-1"), headers)
            model = self._admission.known(call.model)
            call = self._admission.of_user(call, consumer, headers)
            held = held.plus(await limiter.arrive(consumer, configuration.served(call.model[:128], time.time())))
            await self._admitted(caller, request, AdmittedConnection(received, consumer, call, headers, address, held))
        except GatewayError as error:
            self._stages.accounting.refused_call(received, error, consumer, model)
            raise
        finally:
            if held is not None:
                limiter.depart(held, served=caller.accepted)

    async def _admitted(self, caller: CallerSocket, request: Request, admitted: AdmittedConnection) -> None:
        stages, received = self._stages, admitted.received
        pin = Pin(stages, admitted)
        receive = partial(stages.accounting.receive, request, None)
        conversation = Conversation(admitted, pin, self._admission, stages, receive)
        try:
            if admitted.call.operation is sockets.REALTIME:
                # Its backend answers what it hears, so nothing is to be heard if the limits are used up.
                limiter, held = self._admission.limiter, admitted.held
                limiter.release(await limiter.reserve_within(admitted.consumer, admitted.call, held))
                await pin.choose(admitted.consumer, admitted.call)
            subprotocol = chosen_subprotocol(request.scope.get("subprotocols", ()))
            await caller.accept(subprotocol, _headers(received, pin))
        except BaseException:
            await pin.close(_endings.GOING_AWAY, "")
            raise
        timeouts = self._configuration.timeouts
        ending = await Connection(caller, admitted, conversation, pin, self._admission, timeouts).run()
        stages.accounting.connection_ended(
            received,
            {
                "consumer": admitted.consumer.id,
                "model": admitted.call.model,
                "operation": admitted.call.operation.name,
                "backend": pin.target.backend.name if pin.target is not None else None,
                "status": 101,
                "close": ending.code,
                "code": ending.error.code if ending.error is not None else None,
                "responses": conversation.turns.count,
            },
        )

    async def _refuse(
        self, caller: CallerSocket, request: Request, received: ReceivedRequest, error: GatewayError
    ) -> None:
        self._stages.accounting.refused(received, error)
        if caller.accepted:
            await caller.close(1011, error.code)
            return
        response = ErrorResponse(error, {"x-gateway-request-id": received.request_id})
        identify(response, received.request_id, request.headers.get("x-ms-client-request-id", ""))
        await caller.refuse(response)


def _headers(received: ReceivedRequest, pin: Pin) -> dict[str, str]:
    """The headers with which an upgrade is accepted."""
    headers = {"x-request-id": received.request_id, "x-gateway-request-id": received.request_id}
    if pin.target is not None:
        headers["x-gateway-backend"] = pin.target.backend.name
        headers["x-gateway-region"] = pin.target.backend.region
    return headers
