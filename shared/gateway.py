"""The path of a request, top to bottom.

    authenticate -> parse -> admit -> route -> forward -> respond -> account

Each stage is one line of `Gateway._serve` and one module. A refusal at any of them is a `GatewayError`; nothing else
leaves `handle`.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shared import ulid
from shared.accounting import Accounting
from shared.affinity.directory import ObjectDirectory
from shared.auth import client_address
from shared.auth.authenticator import Authenticator
from shared.azure_openai import answers, openapi
from shared.config.document import Configuration
from shared.errors import GatewayError, InvalidApiKey
from shared.forwarding.shadowing import Shadows
from shared.limits.limiter import Limiter, Reservation
from shared.management.api import Document, ManagementApi
from shared.management.readiness import ReadinessCheck, is_internal
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.reading import Bounds, read_call
from shared.requests.upload import Upload
from shared.responses.dispatcher import HUNG_UP, AdmittedCall, Dispatcher, heartbeat_wanted
from shared.responses.relay import RelayedResponse
from shared.responses.rendering import ErrorResponse, JsonResponse
from shared.routing import preferences
from shared.routing.router import Router
from shared.telemetry.recorder import Telemetry
from shared.types import UNBOUND, Call, Consumer, Outcome, Usage
from shared.usage.ledger import Ledger

logger = logging.getLogger("tollgate.requests")


class Gateway:
    """Serves requests. The stages come from `bootstrap.py`."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter,
        router: Router,
        answering: Dispatcher,
        shadows: Shadows,
        ledger: Ledger,
        accounting: Accounting,
        management: ManagementApi,
        affinity: ObjectDirectory,
        configuration: Configuration,
        readiness: ReadinessCheck,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._router = router
        self._answering = answering
        self._shadows = shadows
        self._ledger = ledger
        self._accounting = accounting
        self._management = management
        self._affinity = affinity
        self._bounds = Bounds.of(configuration)
        self._heartbeat = configuration.heartbeat_seconds
        self._client_address = configuration.client_address
        self._readiness = readiness
        self._telemetry = telemetry

    async def handle(self, request: Request, traceparent: str | None = None) -> Response:
        """The answer to a request. Never raises but for cancellation. `traceparent`: of whoever handed the request on;
        None: of its headers."""
        arrival = ReceivedRequest(ulid.new(time.time()), time.monotonic(), request.method, request.scope["path"])
        if arrival.path == "/healthz":
            return JsonResponse({"status": "ok"})
        if arrival.path == openapi.PATH and arrival.method == "GET":
            return Response(openapi.document(), media_type="application/json")
        if self._telemetry is not None:
            parent = traceparent or _header(request, b"traceparent")
            place = self._telemetry.begin(arrival.request_id, arrival.started, parent)
            arrival = msgspec.structs.replace(arrival, place=place)
        try:
            return await self._serve(request, arrival)
        except GatewayError as error:
            self._accounting.refused(arrival, error)
            return ErrorResponse(error, {"x-gateway-request-id": arrival.request_id})
        except CallerDisconnected:
            return Response(status_code=HUNG_UP)
        except Exception:  # the last resort: the caller gets OpenAI's shape, the operator the traceback
            logger.exception("request %s failed by a defect of the gateway", arrival.request_id)
            defect = GatewayError(
                "The gateway failed. Its operator finds the reason in the log under this request's id."
            )
            self._accounting.refused(arrival, defect)
            return ErrorResponse(defect, {"x-gateway-request-id": arrival.request_id})

    async def _serve(self, request: Request, arrival: ReceivedRequest) -> Response:
        # A plain dict: Starlette's own Headers search the raw list anew at every look.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        address = client_address.of_client(request.scope, self._client_address)
        if arrival.path == "/readyz":
            return await self._ready(address, headers)
        if self._limiter.limits_addresses:
            await self._limiter.admit(address)
        if self._management.owns(arrival.path):
            query = request.scope["query_string"].decode("latin-1")
            answer = await self._management.answer(arrival.method, arrival.path, query, headers, address)
            return _own_answer(arrival, answer)
        consumer = await self._authenticator.authenticate(headers, address)
        call, upload = await read_call(request, headers, arrival.method, arrival.path, self._bounds)
        reservation: Reservation | None = None
        try:
            reservation = await self._limiter.reserve(consumer, call)
            response = await self._admitted(request, arrival, consumer, call, upload, reservation, headers)
        except BaseException as error:
            if upload is not None:
                upload.close()
            if reservation is not None:
                self._limiter.release(reservation)  # does nothing where the end of the call is on record
                if isinstance(error, GatewayError):
                    error.limits = self._limiter.headers(reservation)
            raise
        if limits := self._limiter.headers(reservation):
            response.headers.update(limits)
        if self._limiter.names_token_headers:
            consumed = response.usage_so_far() if isinstance(response, RelayedResponse) else Usage()
            told = self._limiter.token_headers(reservation, consumed.input_tokens + consumed.output_tokens)
            response.headers.update(told)
        return response

    async def _ready(self, address: str, headers: Mapping[str, str]) -> Response:
        """200 or 503; what is wrong is told to those with the management key."""
        operator = self._management.opens(headers)
        if not operator and not is_internal(address, headers):
            raise InvalidApiKey("/readyz answers the management key, and probes from beside the gateway.")
        found = await self._readiness()
        told: dict[str, Any] = {"status": "ready" if found.ready else "not ready"}
        if operator:
            told |= {"store": found.store or "ok", "models_without_backend": found.models}
        return JsonResponse(told, 200 if found.ready else 503)

    async def _admitted(
        self,
        request: Request,
        arrival: ReceivedRequest,
        consumer: Consumer,
        call: Call,
        upload: Upload | None,
        reservation: Reservation,
        headers: Mapping[str, str],
    ) -> Response:
        """The answer to a call that its limits allow."""
        if call.operation.local:
            entry = self._ledger.open(arrival.request_id, consumer, call, call.model)
            response = self._models(arrival, consumer, call)
            await self._accounting.ended(arrival, consumer, call, entry, reservation, Outcome(status=200))
            return response
        wished = preferences.parse(headers)
        binding = UNBOUND
        if call.stateful:
            model = self._router.model(consumer, call.model) if call.model else ""
            binding = await self._affinity.bind(consumer, call, model)
        plan = self._router.plan(consumer, call, wished, binding)
        entry = self._ledger.open(arrival.request_id, consumer, call, plan.model)
        for target in plan.shadow if upload is None else ():  # an upload can be read by one alone
            told = self._telemetry.shadow(arrival.place, call) if self._telemetry and arrival.place else None
            self._shadows.send(call, target, entry, told)
        forwarding = AdmittedCall(
            arrival,
            consumer,
            call,
            plan,
            binding,
            upload,
            CallerConnection(request.receive if upload is None else upload.after),
            partial(self._accounting.ended, arrival, consumer, call, entry, reservation),
            heartbeat_wanted(headers, self._heartbeat),
        )
        return await self._answering.answer(forwarding)

    def _models(self, arrival: ReceivedRequest, consumer: Consumer, call: Call) -> Response:
        """The models of this key, from the configuration."""
        headers = {"x-gateway-request-id": arrival.request_id}
        if call.model:
            model = self._router.shown(consumer, call.model)
            return JsonResponse(answers.model_object(model, call.surface), headers=headers)
        models = [answers.model_object(name, call.surface) for name in self._router.models(consumer)]
        return JsonResponse({"object": "list", "data": models}, headers=headers)


def _own_answer(arrival: ReceivedRequest, answer: Any) -> Response:
    headers = {"x-gateway-request-id": arrival.request_id}
    if isinstance(answer, Document):
        return Response(answer.text, media_type=answer.media_type, headers=headers)
    return JsonResponse(answer, headers=headers)


def _header(request: Request, name: bytes) -> str:
    """A header's value; "": there is none."""
    return next((value.decode("latin-1") for key, value in request.scope["headers"] if key == name), "")
