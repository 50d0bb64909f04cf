"""Turns an admitted call into a response: forwards it, relays the answer or the error, and accounts for it on every
path."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec
from starlette.responses import Response

from shared.affinity import listing
from shared.affinity.deferred_charge import DeferredCharge, Settle
from shared.affinity.directory import ObjectDirectory
from shared.affinity.pending import PendingWork
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import answers, metering
from shared.config.days import since_seconds
from shared.config.document import Model
from shared.errors import GatewayError, StateUnavailable, UpstreamTimeout
from shared.forwarding import forwarded_call
from shared.forwarding.forwarded_call import ForwardedCall, ForwardingFailed
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.response import Answer, WholeAnswer
from shared.forwarding.shadowing import Shadows
from shared.lifecycle import retirement
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.upload import Upload
from shared.responses.keep_alive import KeepAliveResponse, discard
from shared.responses.relay import Ended, RelayedResponse
from shared.responses.rendering import ErrorResponse, JsonResponse
from shared.routing.explanation import explained
from shared.routing.router import Router
from shared.settlement.settler import Settler
from shared.types import LEFT, Attempt, Binding, Call, Consumer, Outcome, Plan, Reference, Target, Usage

HUNG_UP = 499  # nobody receives it; it is the status on record of a call whose caller disconnected


class Record(forwarded_call.Record, Protocol):
    """A call on record (`accounting.CallRecord`). `close` it exactly once."""

    def close(self, outcome: Outcome, text: str = "") -> asyncio.Future[None]: ...
    def shadow(self) -> Callable[[Attempt], None]: ...
    def begin_work(self, target: Target, status: int, reference: Reference, parent: str, named: str) -> PendingWork: ...


class AdmittedCall(NamedTuple):
    """A call that its limits allow. `heartbeat`: seconds of silence after which a stream gets a comment; 0: never."""

    received: ReceivedRequest
    consumer: Consumer
    call: Call
    plan: Plan
    binding: Binding
    upload: Upload | None
    connection: CallerConnection
    record: Record
    heartbeat: float


class ListRefused(Exception):
    """A backend refused to list its objects, in its own words."""

    def __init__(self, answer: WholeAnswer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class Dispatcher:
    """One per process."""

    def __init__(
        self, router: Router, forwarder: Forwarder, directory: ObjectDirectory, settler: Settler, shadows: Shadows
    ) -> None:
        self._router = router
        self._forwarder = forwarder
        self._directory = directory
        self._settler = settler
        self._shadows = shadows

    async def answer(self, admitted: AdmittedCall) -> Response:
        """Return what the caller receives. Raises `GatewayError` and `CallerDisconnected`, both accounted for."""
        call, seconds = admitted.call, admitted.heartbeat
        if call.operation.local:
            return await self._accounted(admitted, self._models(admitted))
        if call.operation.lists:
            return await self._accounted(admitted, self._list(admitted))
        for target in admitted.plan.shadow if admitted.upload is None else ():  # an upload can be read only once
            record, request_id = admitted.record, admitted.received.request_id
            self._shadows.send(self._forwarder.client, call, target, request_id, record.shadow())
        if not _kept_alive(admitted):
            return await self._forwarded(admitted)
        loop = asyncio.get_running_loop()
        answer = asyncio.Task(self._forwarded(admitted), loop=loop, eager_start=True)
        try:
            while not (answer.done() or (await asyncio.wait((answer,), timeout=seconds))[0]):
                if _wants_stream(admitted):
                    headers = {"x-gateway-request-id": admitted.received.request_id, **admitted.plan.announcement}
                    return KeepAliveResponse(answer, headers, call.operation, seconds)
            return answer.result()
        except BaseException:
            discard(answer)
            raise

    async def _forwarded(self, admitted: AdmittedCall) -> RelayedResponse | ErrorResponse:
        received = admitted.received
        forwarded = self._forwarder.sending(
            admitted.call,
            admitted.plan,
            received.request_id,
            admitted.upload,
            admitted.record,
            kept_alive=_kept_alive(admitted),
        )
        return await self._accounted(admitted, self._forward(admitted, forwarded), lambda: forwarded.attempts)

    async def _forward(self, admitted: AdmittedCall, forwarded: ForwardedCall) -> tuple[RelayedResponse, None]:
        """The answer of the first target that gives one. The response itself accounts for it."""
        await self._settler.before_deletion(admitted.call)
        answer = await forwarded.run()
        self._settler.read_beside(admitted.call)
        try:
            recorder = None
            if admitted.call.stateful or admitted.call.operation.seals:
                begin = partial(admitted.record.begin_work, answer.target, answer.status)
                lines = admitted.upload.batch_size() if admitted.upload is not None else None
                backend = answer.target.backend.name
                recorder = ObjectRecorder(
                    self._directory, admitted.consumer, admitted.call, backend, begin, lines=lines
                )
            return _relay(admitted, answer, forwarded.attempts, recorder, self._settler.begin), None
        except BaseException:
            answer.close()
            raise

    async def _list(self, admitted: AdmittedCall) -> tuple[Response, Outcome]:
        """The consumer's own objects, out of the lists of the backends that keep some."""
        received, call = admitted.received, admitted.call
        attempts: list[Attempt] = []

        async def ask(backend: str, page: Call) -> bytes:
            binding = Binding(frozenset((backend,)), backend)
            plan = self._router.plan(admitted.consumer, page, binding=binding)
            forwarded = self._forwarder.sending(page, plan, received.request_id)
            answer = await forwarded.run()
            attempts.extend(forwarded.attempts)
            answer.close()
            if not isinstance(answer, WholeAnswer):
                raise StateUnavailable(f"The list of the backend {backend!r} is too large.")
            if answer.status != 200:
                raise ListRefused(answer)
            return answer.body

        try:
            own = await self._directory.own(admitted.consumer, call.operation.lists)
            body = await listing.listed(call, own, admitted.binding.first, ask)
        except ListRefused as refused:
            answer = refused.answer
            headers = {**answer.headers, **_gateway_headers(received, admitted.plan, attempts)}
            outcome = Outcome(status=answer.status, attempts=tuple(attempts[-1:]), ended="refused")
            return Response(answer.body, answer.status, headers), outcome
        headers = _gateway_headers(received, admitted.plan, attempts)
        outcome = Outcome(status=200, attempts=tuple(attempts[-1:]), served_by=attempts[-1].target)
        return Response(body, 200, headers, "application/json"), outcome

    async def _models(self, admitted: AdmittedCall) -> tuple[Response, Outcome]:
        """The models that the consumer may use, from the configuration; or the one that it asks for."""
        names = [admitted.plan.model] if admitted.plan.model else self._router.models(admitted.consumer)
        models = [self._model(name, admitted.call) for name in names]
        body = models[0] if admitted.plan.model else answers.model_list(models, admitted.call.query)
        headers = {"x-gateway-request-id": admitted.received.request_id}
        return JsonResponse(body, headers=headers), Outcome(status=200)

    def _model(self, name: str, call: Call) -> dict[str, Any]:
        """A model as callers see it, with its end if that is known."""
        settings = self._forwarder.models.get(name, Model())
        end = retirement.of(name, settings)
        ends = since_seconds(end.retires) if end is not None else None
        replaced_by = msgspec.to_builtins(settings.replaced_by) if settings.replaced_by is not None else None
        return answers.model_object(name, call.surface, ends, replaced_by)

    async def _accounted[R: Response](
        self,
        admitted: AdmittedCall,
        work: Coroutine[Any, Any, tuple[R, Outcome | None]],
        attempts: Callable[[], tuple[Attempt, ...]] = tuple,
    ) -> R | ErrorResponse:
        """The response that `work` returns, or the error of all targets. Puts the end of the call on record, unless
        `work` returns no outcome: its response then does, when it has been sent. Raises `CallerDisconnected` and
        `GatewayError`.

        `attempts` returns those made so far."""
        received, record = admitted.received, admitted.record
        failure: Outcome | None = None
        try:
            async with admitted.connection:
                response, outcome = await work
        except ForwardingFailed as failed:
            error = state_unavailable(failed.error, admitted.binding)
            failure = Outcome(status=error.status, attempts=failed.attempts, ended="refused", code=error.code)
            return ErrorResponse(error, _gateway_headers(received, admitted.plan, failed.attempts))
        except (CallerDisconnected, asyncio.CancelledError):  # by the server, whose caller gets no answer either
            failure = hung_up(admitted.call, attempts(), round(received.milliseconds()))
            raise
        except GatewayError as error:
            failure = Outcome(status=error.status, attempts=attempts(), ended="refused", code=error.code)
            error.on_record = True
            raise
        except BaseException:
            failure = Outcome(status=500, attempts=attempts(), ended="cut")
            raise
        finally:
            if failure is not None:
                work.close()
                if admitted.upload is not None:
                    admitted.upload.close()
                record.close(failure)
        if outcome is not None:
            await record.close(outcome)
        return response


def _kept_alive(admitted: AdmittedCall) -> bool:
    """True if comments keep the caller's connection while the backends are silent."""
    call = admitted.call
    return bool(admitted.heartbeat) and (call.stream or (admitted.upload is not None and call.operation.streams))


def _wants_stream(admitted: AdmittedCall) -> bool:
    """True if comments may go out. An upload asks for a stream in one of its fields; a caller that is still sending
    keeps the connection alive itself."""
    upload = admitted.upload
    return admitted.call.stream if upload is None else upload.complete and upload.asks_for_stream


def hung_up(call: Call, attempts: tuple[Attempt, ...], milliseconds: int) -> Outcome:
    """The outcome of a call whose caller disconnected before its answer. The backend that was working on it has read
    the prompt, and charges for that; charges of others are in their attempts."""
    at_work = next((one.target for one in reversed(attempts) if one.problem in ("", LEFT)), None)
    return Outcome(
        status=HUNG_UP,
        usage=metering.unanswered(call) if at_work is not None else Usage(),
        attempts=attempts,
        served_by=at_work,
        total_ms=milliseconds,
        ended="hung_up",
    )


def heartbeat_wanted(headers: Mapping[str, str], seconds: float) -> float:
    """The configured heartbeat, unless the caller turns it off in a header."""
    return 0.0 if headers.get("x-gateway-heartbeat", "").lower() == "off" else seconds


def state_unavailable(error: GatewayError, binding: Binding) -> GatewayError:
    """The error that the caller receives if no target answered. For a call that only one backend can serve, it says
    why."""
    if binding.only is None or error.status == 429:
        return error
    why = "It did not answer in time." if isinstance(error, UpstreamTimeout) else "It cannot be reached now."
    return StateUnavailable(f"{binding.reason} {why}")


def _relay(
    admitted: AdmittedCall,
    answer: Answer,
    attempts: tuple[Attempt, ...],
    recorder: ObjectRecorder | None,
    settle: Settle,
) -> RelayedResponse:
    """The response that relays a backend's answer, and puts its end on record."""
    received, record = admitted.received, admitted.record
    first_byte_ms = received.milliseconds()

    def close(usage: Usage, ended: Ended, text: str) -> asyncio.Future[None]:
        return record.close(
            Outcome(
                status=answer.status,
                usage=usage,
                attempts=attempts,
                served_by=answer.target,
                first_byte_ms=round(first_byte_ms),
                total_ms=round(received.milliseconds()),
                ended=ended,
            ),
            text,
        )

    headers = answer.headers | _gateway_headers(received, admitted.plan, attempts, answer.target)
    return RelayedResponse(
        answer,
        admitted.connection,
        headers,
        close,
        operation=admitted.call.operation,
        heartbeat=admitted.heartbeat,
        deferred=DeferredCharge(recorder, settle) if recorder is not None and recorder.deferred else None,
        recorder=recorder,
        upload=admitted.upload,
    )


def _gateway_headers(
    received: ReceivedRequest, plan: Plan, attempts: Sequence[Attempt], served_by: Target | None = None
) -> dict[str, str]:
    """Headers that say how an answer came about. The overhead is the time that the gateway added to the attempts."""
    headers = {"x-gateway-request-id": received.request_id, "x-gateway-attempts": str(len(attempts))}
    if attempts:
        target = served_by or attempts[-1].target
        headers["x-gateway-backend"] = target.backend.name
        headers["x-gateway-region"] = target.backend.region
        overhead = received.milliseconds() - sum(attempt.milliseconds for attempt in attempts)
        headers["x-gateway-overhead-ms"] = f"{max(overhead, 0):.2f}"
        if served_by is not None and target.model != plan.model:
            headers["x-gateway-canary" if target.model == plan.canary else "x-gateway-fallback"] = target.model
    if plan.named:
        headers["x-gateway-replacement"] = plan.model
    headers.update(plan.announcement)
    if plan.notes is not None:
        headers["x-gateway-explain"] = explained(plan.notes, attempts)
    return headers
