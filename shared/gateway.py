"""The path of a request, top to bottom.

    authenticate -> parse -> admit -> route -> forward -> respond -> account

Each stage is one line of `Gateway._serve` and one module. A refusal at any of them is a `GatewayError`; nothing else
leaves `handle`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shared import addresses, azure_openai, listing, openapi, ulid, wishes
from shared.affinity import Affinity
from shared.authentication import Authenticator
from shared.client import Client, ClientGone
from shared.config import Configuration
from shared.errors import GatewayError, InvalidApiKey, StateUnavailable, UpstreamTimeout
from shared.forwarding import Forwarder, ForwardingFailed
from shared.intake import Bounds, read_call
from shared.ledger import Entry, Ledger
from shared.limiter import Limiter, Reservation
from shared.management import Document, Management
from shared.readiness import ReadinessCheck, is_internal
from shared.responses import Ended, JsonResponse, LateResponse, MeteredResponse, refusal
from shared.routing import Router, explained
from shared.shadowing import Shadows
from shared.spans import Place
from shared.telemetry import Telemetry
from shared.tokenizer import Tokenizer, is_estimated
from shared.types import UNBOUND, Attempt, Binding, Call, Consumer, Outcome, Plan, Target, Usage
from shared.uploads import Upload
from shared.upstream import UpstreamResponse
from shared.witness import Witness

logger = logging.getLogger("tollgate.requests")

HUNG_UP = 499  # nobody receives it; it stands in the record of a call whose caller left


class Arrival(msgspec.Struct, frozen=True):
    """A request as it came in. `started` on the monotonic clock. `place`: in its trace; None: nobody wants to know."""

    request_id: str
    started: float
    method: str
    path: str
    place: Place | None = None

    def milliseconds(self) -> float:
        return (time.monotonic() - self.started) * 1000


class Gateway:
    """Serves requests. The stages come from `bootstrap.py`."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter,
        router: Router,
        forwarder: Forwarder,
        shadows: Shadows,
        ledger: Ledger,
        tokenizer: Tokenizer,
        management: Management,
        affinity: Affinity,
        configuration: Configuration,
        readiness: ReadinessCheck,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._router = router
        self._forwarder = forwarder
        self._shadows = shadows
        self._ledger = ledger
        self._tokenizer = tokenizer
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
        arrival = Arrival(ulid.new(time.time()), time.monotonic(), request.method, request.scope["path"])
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
            self._refused(arrival, error)
            return refusal(error, {"x-gateway-request-id": arrival.request_id})
        except ClientGone:
            return Response(status_code=HUNG_UP)
        except Exception:  # the last resort: the caller gets OpenAI's shape, the operator the traceback
            logger.exception("request %s failed by a defect of the gateway", arrival.request_id)
            defect = GatewayError(
                "The gateway failed. Its operator finds the reason in the log under this request's id."
            )
            self._refused(arrival, defect)
            return refusal(defect, {"x-gateway-request-id": arrival.request_id})

    async def _serve(self, request: Request, arrival: Arrival) -> Response:
        # A plain dict: Starlette's own Headers search the raw list anew at every look.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        address = addresses.of_client(request.scope, self._client_address)
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
            consumed = response.usage_so_far() if isinstance(response, MeteredResponse) else Usage()
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
        arrival: Arrival,
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
            await self._account(arrival, consumer, call, entry, reservation, Outcome(status=200))
            return response
        wished = wishes.parse(headers)
        binding = UNBOUND
        if call.stateful:
            model = self._router.model(consumer, call.model) if call.model else ""
            binding = await self._affinity.bind(consumer, call, model)
        plan = self._router.plan(consumer, call, wished, binding)
        entry = self._ledger.open(arrival.request_id, consumer, call, plan.model)
        for target in plan.shadow if upload is None else ():  # an upload can be read by one alone
            self._shadows.send(call, target, entry)
        forwarding = Forwarding(
            arrival,
            consumer,
            call,
            plan,
            binding,
            upload,
            Client(request.receive if upload is None else upload.after),
            partial(self._account, arrival, consumer, call, entry, reservation),
            heartbeat_wanted(headers, self._heartbeat),
        )
        if call.operation.lists:
            return await self._list(forwarding)
        if not (call.stream and forwarding.heartbeat):
            return await self._forward(forwarding)
        answer = asyncio.ensure_future(self._forward(forwarding))
        try:
            if (await asyncio.wait((answer,), timeout=forwarding.heartbeat))[0]:
                return answer.result()
        except BaseException:
            answer.cancel()
            raise
        return LateResponse(answer, {"x-gateway-request-id": arrival.request_id}, forwarding.heartbeat)

    async def _forward(self, forwarding: "Forwarding") -> Response:
        """The answer of the first target that gives one; accounted for also when none does."""
        arrival, call, plan, client = forwarding.arrival, forwarding.call, forwarding.plan, forwarding.client
        failure: Outcome | None = Outcome(status=500, ended="cut")
        upstream: UpstreamResponse | None = None
        try:
            async with client:
                upstream = await self._forwarder.send(
                    call, plan, arrival.request_id, arrival.started, forwarding.upload
                )
            witness = None
            if call.stateful:
                witness = Witness(self._affinity, forwarding.consumer, call, upstream.target.backend.name)
            response = _answer(forwarding, upstream, witness)
            failure = None
            return response
        except ForwardingFailed as failed:
            error = state_unavailable(failed.error, forwarding.binding)
            failure = Outcome(status=error.status, attempts=failed.attempts, ended="refused")
            return refusal(error, _gateway_headers(arrival, plan, failed.attempts))
        except ClientGone:
            # The backend may have read the prompt, and charges for that.
            usage = Usage(input_tokens=call.input_estimate, estimated=call.input_estimate > 0)
            failure = Outcome(status=HUNG_UP, usage=usage, ended="hung_up")
            return Response(status_code=HUNG_UP)
        except GatewayError as error:
            failure = Outcome(status=error.status, ended="refused")
            raise
        finally:
            if failure is not None:
                if upstream is not None:
                    upstream.close()
                if forwarding.upload is not None:
                    forwarding.upload.close()
                forwarding.account(failure)

    async def _list(self, forwarding: "Forwarding") -> Response:
        """A list of the consumer's own objects, out of the lists of the backends that keep some."""
        arrival, call = forwarding.arrival, forwarding.call
        attempts: list[Attempt] = []
        outcome = Outcome(status=500, ended="cut")

        async def ask(backend: str, page: Call) -> bytes:
            binding = Binding(frozenset((backend,)), backend)
            plan = self._router.plan(forwarding.consumer, page, binding=binding)
            upstream = await self._forwarder.send(page, plan, arrival.request_id, arrival.started)
            attempts.extend(upstream.attempts)
            upstream.close()
            if upstream.status != 200 or not upstream.complete:
                raise ListRefused(upstream)
            return upstream.head

        try:
            async with forwarding.client:
                own = await self._affinity.own(forwarding.consumer, call.operation.lists)
                body = await listing.listed(call, own, forwarding.binding.first, ask)
            outcome = Outcome(status=200, attempts=tuple(attempts[-1:]), served_by=attempts[-1].target)
            await forwarding.account(outcome)
            return Response(body, 200, _gateway_headers(arrival, forwarding.plan, attempts), "application/json")
        except ListRefused as refused:
            upstream = refused.upstream
            outcome = Outcome(status=upstream.status, attempts=tuple(attempts[-1:]), ended="refused")
            return Response(
                upstream.head,
                upstream.status,
                {**upstream.headers, **_gateway_headers(arrival, forwarding.plan, attempts)},
            )
        except ForwardingFailed as failed:
            outcome = Outcome(status=failed.error.status, attempts=failed.attempts, ended="refused")
            return refusal(failed.error, _gateway_headers(arrival, forwarding.plan, failed.attempts))
        except ClientGone:
            outcome = Outcome(status=HUNG_UP, ended="hung_up")
            return Response(status_code=HUNG_UP)
        except GatewayError as error:
            outcome = Outcome(status=error.status, ended="refused")
            raise
        finally:
            if outcome.status != 200:
                forwarding.account(outcome)

    def _models(self, arrival: Arrival, consumer: Consumer, call: Call) -> Response:
        """The models of this key, from the configuration."""
        headers = {"x-gateway-request-id": arrival.request_id}
        if call.model:
            model = self._router.model(consumer, call.model)
            return JsonResponse(azure_openai.model_object(model, call.surface), headers=headers)
        models = [azure_openai.model_object(name, call.surface) for name in self._router.models(consumer)]
        return JsonResponse({"object": "list", "data": models}, headers=headers)

    def _account(
        self,
        arrival: Arrival,
        consumer: Consumer,
        call: Call,
        entry: Entry,
        reservation: Reservation,
        outcome: Outcome,
        said: str = "",
    ) -> asyncio.Future[None]:
        """Put the end of a call on record. Returns at once; the future is done when the row is in the table.

        What is estimated is counted first; `said` is the text of the answer, as far as it came."""
        if is_estimated(outcome):
            book = partial(self._book, arrival, consumer, call, entry, reservation)
            return self._tokenizer.correct(outcome, call.body, said, book)
        return self._book(arrival, consumer, call, entry, reservation, outcome)

    def _book(
        self,
        arrival: Arrival,
        consumer: Consumer,
        call: Call,
        entry: Entry,
        reservation: Reservation,
        outcome: Outcome,
    ) -> asyncio.Future[None]:
        for number, attempt in enumerate(outcome.attempts, 1):
            if attempt.usage is not None:
                self._ledger.charge(entry, number, attempt)
        row = self._ledger.close(entry, outcome)
        # A shadow is the operator's trial, which the caller knows nothing of.
        beside = [(a.target, a.usage) for a in outcome.attempts if a.usage is not None and a.role != "shadow"]
        if outcome.ended == "refused" and not beside:
            self._limiter.release(reservation)
        else:
            self._limiter.settle(reservation, outcome.usage, outcome.served_by, beside)
        if self._telemetry is not None and arrival.place is not None:
            self._telemetry.ended(arrival.place, consumer, call, outcome)
        target = outcome.served_by or (outcome.attempts[-1].target if outcome.attempts else None)
        line = {
            "request": arrival.request_id,
            "consumer": consumer.id,
            "model": call.model,
            "operation": call.operation.name,
            "backend": target.backend.name if target else None,
            "status": outcome.status,
            "ended": outcome.ended,
            "attempts": len(outcome.attempts),
            "input_tokens": outcome.usage.input_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "estimated": outcome.usage.estimated,
            "first_byte_ms": outcome.first_byte_ms,
            "ms": round(arrival.milliseconds()),
        }
        _log(arrival, line)
        return row

    def _refused(self, arrival: Arrival, error: GatewayError) -> None:
        if self._telemetry is not None and arrival.place is not None:
            self._telemetry.refused(arrival.place, error.status, error.code)
        line = {
            "request": arrival.request_id,
            "method": arrival.method,
            "path": arrival.path[:200],
            "status": error.status,
            "code": error.code,
            "ms": round(arrival.milliseconds()),
        }
        _log(arrival, line)


def _own_answer(arrival: Arrival, answer: Any) -> Response:
    headers = {"x-gateway-request-id": arrival.request_id}
    if isinstance(answer, Document):
        return Response(answer.text, media_type=answer.media_type, headers=headers)
    return JsonResponse(answer, headers=headers)


class ListRefused(Exception):
    """A backend refused to list its objects, in its own words."""

    def __init__(self, upstream: UpstreamResponse) -> None:
        super().__init__(f"status {upstream.status}")
        self.upstream = upstream


class Forwarding(NamedTuple):
    """All that the rest of an admitted call needs. `heartbeat`: seconds of silence after which a stream gets a comment;
    0: never."""

    arrival: Arrival
    consumer: Consumer
    call: Call
    plan: Plan
    binding: Binding
    upload: Upload | None
    client: Client
    account: Callable[..., asyncio.Future[None]]  # of an `Outcome` and the text that was said
    heartbeat: float


def heartbeat_wanted(headers: Mapping[str, str], seconds: float) -> float:
    """A caller that wants none says so in a header."""
    return 0.0 if headers.get("x-gateway-heartbeat", "").lower() == "off" else seconds


def state_unavailable(error: GatewayError, binding: Binding) -> GatewayError:
    """What a caller is told when no target answered: of a call that only one backend can serve, why that is so."""
    if binding.only is None or error.status == 429:
        return error
    why = "It did not answer in time." if isinstance(error, UpstreamTimeout) else "It cannot be reached now."
    return StateUnavailable(f"{binding.reason} {why}")


def _answer(forwarding: Forwarding, upstream: UpstreamResponse, witness: Witness | None) -> MeteredResponse:
    """What relays an upstream's answer and tells `account` how that ended."""
    arrival, account = forwarding.arrival, forwarding.account
    first_byte_ms = arrival.milliseconds()

    def close(usage: Usage, ended: Ended, said: str) -> asyncio.Future[None]:
        return account(
            Outcome(
                status=upstream.status,
                usage=usage,
                attempts=upstream.attempts,
                served_by=upstream.target,
                first_byte_ms=round(first_byte_ms),
                total_ms=round(arrival.milliseconds()),
                ended=ended,
            ),
            said,
        )

    headers = upstream.headers | _gateway_headers(arrival, forwarding.plan, upstream.attempts, upstream.target)
    return MeteredResponse(
        upstream,
        forwarding.client,
        headers,
        close,
        heartbeat=forwarding.heartbeat,
        witness=witness,
        upload=forwarding.upload,
    )


def _gateway_headers(
    arrival: Arrival, plan: Plan, attempts: Sequence[Attempt], served_by: Target | None = None
) -> dict[str, str]:
    """What an answer tells of its way here. The overhead is what the gateway added to the time of the tries."""
    headers = {"x-gateway-request-id": arrival.request_id, "x-gateway-attempts": str(len(attempts))}
    if attempts:
        target = served_by or attempts[-1].target
        headers["x-gateway-backend"] = target.backend.name
        headers["x-gateway-region"] = target.backend.region
        overhead = arrival.milliseconds() - sum(attempt.milliseconds for attempt in attempts)
        headers["x-gateway-overhead-ms"] = f"{max(overhead, 0):.2f}"
        if served_by is not None and target.model != plan.model:
            headers["x-gateway-canary" if target.model == plan.canary else "x-gateway-fallback"] = target.model
    if plan.notes is not None:
        headers["x-gateway-explain"] = explained(plan.notes, attempts)
    return headers


def _header(request: Request, name: bytes) -> str:
    """A header's value; "": there is none."""
    return next((value.decode("latin-1") for key, value in request.scope["headers"] if key == name), "")


def _log(arrival: Arrival, line: dict[str, Any]) -> None:
    """The one line of a request."""
    if arrival.place is not None:
        line["trace"] = arrival.place.trace
    logger.info(msgspec.json.encode(line).decode())
