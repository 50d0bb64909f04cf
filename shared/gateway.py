"""The path of a request, top to bottom.

    authenticate -> parse -> admit -> route -> forward -> respond -> account

Each stage is one line of `Gateway._serve` and one package. A stage that refuses raises a `GatewayError`; nothing else
leaves `handle`.
"""

import logging
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from shared.accounting import Accounting
from shared.affinity.planner import Planner
from shared.auth import client_address, end_users
from shared.auth.authenticator import Authenticator
from shared.auth.products import Subscriptions
from shared.azure_openai import operations
from shared.config.document import Configuration
from shared.errors import GatewayError
from shared.limits import unmetered
from shared.limits.admission import Admission
from shared.limits.limiter import Limiter, Reservation
from shared.management.api import ManagementApi
from shared.requests.arrival import ReceivedRequest
from shared.requests.buffers import Buffers
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.head import headers_of
from shared.requests.reading import Arriving, Bounds, read_call
from shared.requests.upload import Upload
from shared.responses.cors import Cors
from shared.responses.dispatcher import HUNG_UP, AdmittedCall, Dispatcher, heartbeat_wanted
from shared.responses.relay import RelayedResponse
from shared.responses.rendering import ErrorResponse, identify
from shared.types import Call, Consumer

logger = logging.getLogger("tollgate.requests")

_BODIES_AT_ONCE = 8  # of the largest size, that a process receives
_FOR_RESPONSE = frozenset((b"origin", b"x-ms-client-request-id"))  # headers that the response answers


class Gateway:
    """Serves requests by one configuration. `bootstrap.py` builds the stages. `buffers`: those of the process."""

    def __init__(
        self,
        management: ManagementApi,
        authenticator: Authenticator,
        limiter: Limiter,
        planner: Planner,
        dispatcher: Dispatcher,
        accounting: Accounting,
        configuration: Configuration,
        buffers: Buffers,
    ) -> None:
        self._management = management
        self._authenticator = authenticator
        self._limiter = limiter
        self._planner = planner
        self._dispatcher = dispatcher
        self._accounting = accounting
        self._configuration = configuration
        self._subscriptions = Subscriptions(configuration)
        self._bounds = Bounds.of(configuration)
        self._buffers = buffers
        buffers.resize(_BODIES_AT_ONCE * configuration.max_request_bytes)
        self._heartbeat = configuration.heartbeat_seconds
        self._client_address = configuration.client_address
        self._models = frozenset([*configuration.model_names(), *configuration.aliases, *configuration.switches])
        self._cors = Cors(configuration.cors.origins)

    async def handle(self, request: Request, traceparent: str | None = None) -> Response:
        """Answer a request. Raises nothing except `CancelledError`. `traceparent` overrides the request's header."""
        received = self._accounting.receive(request, traceparent)
        response = await self._handle(request, received)
        own = {name: value.decode("latin-1") for name, value in request.scope["headers"] if name in _FOR_RESPONSE}
        identify(response, received.request_id, own.get(b"x-ms-client-request-id", ""))
        self._cors.expose(own.get(b"origin", ""), response)
        return response

    async def _handle(self, request: Request, received: ReceivedRequest) -> Response:
        try:
            return await self._serve(request, received)
        except GatewayError as error:
            return self._refuse(received, error)
        except CallerDisconnected:
            return Response(status_code=HUNG_UP)
        except Exception:  # the last resort: the caller gets OpenAI's shape, the operator the traceback
            logger.exception("request %s failed: a defect of the gateway", received.request_id)
            return self._refuse(
                received, GatewayError("Internal gateway error. The operator can find it in the log by request id.")
            )

    async def _serve(self, request: Request, received: ReceivedRequest) -> Response:
        headers = headers_of(request.scope["headers"])  # a dict: Starlette's own search the raw list on every access
        address = client_address.of_client(request.scope, self._client_address)
        if (permission := self._cors.preflight(received.method, headers)) is not None:
            return permission
        operations.reject_foreign(received.path)
        if self._management.owns(received.path):
            return await self._management.answer(request, received, headers, address)
        consumer = None
        try:
            if self._limiter.limits_addresses:
                await self._limiter.admit(address)
            consumer = await self._authenticator.authenticate(headers, address)
            if (idempotency_key := headers.get("idempotency-key")) is not None:
                headers["idempotency-key"] = f"{consumer.id}:{idempotency_key}"  # callers share the backends' keys
            consumer = self._subscriptions.effective(consumer)
            return await self._serve_consumer(request, received, consumer, headers)
        except GatewayError as error:
            self._accounting.refused_call(received, error, consumer, self._configuration.canonical(error.model))
            raise

    async def _serve_consumer(
        self, request: Request, received: ReceivedRequest, consumer: Consumer, headers: Mapping[str, str]
    ) -> Response:
        admission = Admission(self._limiter, consumer)
        call, upload = None, None
        try:
            arriving = Arriving(admission.arrive, self._buffers.open(consumer.id), self._bounds)
            call, upload = await read_call(request, headers, received.method, received.path, arriving)
            call = end_users.named(call, consumer, headers, self._configuration.end_users)
            unmetered.check(consumer, call, self._configuration, time.time())
            reservation = await admission.reserve(call)
            response = await self._answer(request, received, consumer, call, upload, reservation, headers)
        except BaseException as error:
            if upload is not None:
                upload.close()
            admission.leave()
            if isinstance(error, GatewayError):
                if call is not None and call.model in self._models:  # the log holds no free text of callers
                    error.model = call.model
                if admission.reservation is not None:
                    error.limits = self._limiter.headers(admission.reservation)
            raise
        consumed = response.tokens_so_far if isinstance(response, RelayedResponse) else int  # which returns 0
        response.headers.update(self._limiter.headers(reservation, consumed))
        return response

    async def _answer(
        self,
        request: Request,
        received: ReceivedRequest,
        consumer: Consumer,
        call: Call,
        upload: Upload | None,
        reservation: Reservation,
        headers: Mapping[str, str],
    ) -> Response:
        """Route, forward and respond: the answer to an admitted call."""
        try:
            plan, binding = await self._planner.plan(consumer, call, headers)
            if (batch := self._planner.batch(call)) is not None:
                await self._limiter.reserve_batch(reservation, call, batch)
        except BaseException:
            self._limiter.release(reservation)
            raise
        # From here on the end of the call, whatever it is, settles the reservation.
        record = self._accounting.open(received, consumer, call, reservation, plan.model)
        connection = CallerConnection(request.receive if upload is None else upload.after)
        heartbeat = heartbeat_wanted(headers, self._heartbeat)
        return await self._dispatcher.answer(
            AdmittedCall(received, consumer, call, plan, binding, upload, connection, record, heartbeat)
        )

    def _refuse(self, received: ReceivedRequest, error: GatewayError) -> Response:
        self._accounting.refused(received, error)
        return ErrorResponse(error, {"x-gateway-request-id": received.request_id})
