"""The path of a request, top to bottom.

    authenticate -> parse -> admit -> route -> forward -> respond -> account

Each stage is one package. A stage that refuses raises a `GatewayError`, which `process/front.py` turns into a response.
"""

import time
from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from shared.accounting import Accounting
from shared.affinity.planner import Planner
from shared.auth import end_users
from shared.auth.authenticator import Authenticator
from shared.auth.products import Subscriptions
from shared.config.document import Configuration
from shared.errors import GatewayError
from shared.limits import unmetered
from shared.limits.admission import Admission
from shared.limits.limiter import Limiter
from shared.limits.reservation import Reservation
from shared.requests.arrival import ReceivedRequest
from shared.requests.buffers import Buffer, Buffers
from shared.requests.disconnect import CallerConnection
from shared.requests.reading import Arriving, Bounds, as_chat, read_call
from shared.requests.upload import Upload
from shared.responses.admitted_call import AdmittedCall, heartbeat_of
from shared.responses.as_completions import CompletionsResponse
from shared.responses.dispatcher import Dispatcher
from shared.responses.relay import RelayedResponse
from shared.types import Call, Consumer

_BODIES_AT_ONCE = 8  # of the largest size, that a process receives


class Gateway:
    """Serves calls by one configuration. `process/application.py` builds the stages. `buffers`: of the process."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter,
        planner: Planner,
        dispatcher: Dispatcher,
        accounting: Accounting,
        configuration: Configuration,
        buffers: Buffers,
    ) -> None:
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
        self._chatting = {name for name, model in configuration.models.items() if model.completions_as_chat}

    async def serve(
        self, request: Request, received: ReceivedRequest, headers: dict[str, str], address: str
    ) -> Response:
        """Answer a call. `address`: the client's. Raises `GatewayError` and `CallerDisconnected`."""
        consumer, admission = None, Admission(self._limiter)
        try:
            await admission.admit(address)
            consumer = await self._authenticator.authenticate(headers, address)
            if (idempotency_key := headers.get("idempotency-key")) is not None:
                headers["idempotency-key"] = f"{consumer.id}:{idempotency_key}"  # callers share the backends' keys
            consumer = self._subscriptions.effective(consumer)
            return await self._serve_consumer(request, received, consumer, admission, headers)
        except GatewayError as error:
            self._accounting.refused_call(received, error, consumer, self._configuration.canonical(error.model))
            raise
        finally:
            admission.leave()

    async def _serve_consumer(
        self,
        request: Request,
        received: ReceivedRequest,
        consumer: Consumer,
        admission: Admission,
        headers: Mapping[str, str],
    ) -> Response:
        call, upload, buffer = None, None, self._buffers.open(consumer.id)
        try:
            arriving = Arriving(partial(admission.arrive, consumer), buffer, self._bounds)
            call, upload = await read_call(request, headers, received.method, received.path, arriving)
            rendering = None
            if call.operation.name == "completions" and self._configuration.canonical(call.model) in self._chatting:
                call, rendering = await as_chat(call, buffer)
            call = end_users.named(call, consumer, headers, self._configuration.end_users)
            call = self._planner.named(consumer, call)
            unmetered.check(consumer, call, self._configuration, time.time())
            reservation = await admission.reserve(consumer, call)
            body = buffer if upload is None else upload
            response = await self._answer(request, received, consumer, call, body, reservation, headers)
        except BaseException as error:
            if upload is not None:
                upload.close()
            buffer.release()
            if isinstance(error, GatewayError):
                if call is not None and call.model in self._configuration.callable_names:
                    # The log holds no free text of callers.
                    error.model = call.model
                if admission.reservation is not None:
                    error.limits = self._limiter.headers(admission.reservation)
            raise
        consumed = response.tokens_so_far if isinstance(response, RelayedResponse) else int  # which returns 0
        response.headers.update(self._limiter.headers(reservation, consumed))
        return response if rendering is None else CompletionsResponse(response, rendering, buffer.one_at_a_time)

    async def _answer(
        self,
        request: Request,
        received: ReceivedRequest,
        consumer: Consumer,
        call: Call,
        body: Upload | Buffer,
        reservation: Reservation,
        headers: Mapping[str, str],
    ) -> Response:
        """Route, forward and respond: the answer to an admitted call. `body`: what is held of it until then."""
        upload = body if isinstance(body, Upload) else None
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
        if isinstance(body, Buffer) and body.holds:
            connection.at_end(body.release)
        heartbeat = heartbeat_of(headers, self._heartbeat)
        return await self._dispatcher.answer(
            AdmittedCall(received, consumer, call, plan, binding, upload, connection, record, heartbeat)
        )
