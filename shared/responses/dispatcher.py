"""Turns an admitted call into a response: forwards it, relays the answer or the error, and accounts for it on every
path."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from starlette.responses import Response

from shared.affinity.deferred_charge import DeferredCharge, Settlement
from shared.affinity.directory import ObjectDirectory
from shared.affinity.recorder import ObjectRecorder
from shared.errors import GatewayError, StateUnavailable, UpstreamTimeout
from shared.forwarding.forwarded_call import ForwardedCall, ForwardingFailed
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.response import Answer
from shared.forwarding.shadowing import Shadows
from shared.requests.disconnect import CallerDisconnected
from shared.responses._gateway_headers import EMPTY_ANSWER, WARNING, gateway_headers
from shared.responses._listings import Listings
from shared.responses.admitted_call import AdmittedCall
from shared.responses.hang_up import hung_up
from shared.responses.keep_alive import KeepAliveResponse, discard
from shared.responses.relay import Ended, RelayedResponse
from shared.responses.rendering import ErrorResponse
from shared.routing.router import Router
from shared.settlement.settler import Settler
from shared.types import Attempt, Binding, Outcome, Usage
from shared.usage.unsaid import Pauses


class Dispatcher:
    """One per process."""

    def __init__(
        self, router: Router, forwarder: Forwarder, directory: ObjectDirectory, settler: Settler, shadows: Shadows
    ) -> None:
        self._listings = Listings(router, forwarder, directory)
        self._forwarder = forwarder
        self._directory = directory
        self._settler = settler
        self._shadows = shadows

    async def answer(self, admitted: AdmittedCall) -> Response:
        """Return what the caller receives. Raises `GatewayError` and `CallerDisconnected`, both accounted for."""
        call, seconds = admitted.call, admitted.heartbeat
        if call.operation.local:
            return await self._accounted(admitted, self._listings.models(admitted))
        if call.operation.lists:
            return await self._accounted(admitted, self._listings.objects(admitted))
        for target in admitted.plan.shadow if admitted.upload is None else ():  # an upload can be read only once
            record, request_id = admitted.record, admitted.received.request_id
            self._shadows.send(self._forwarder.client, call, target, request_id, record.shadow())
        if not admitted.kept_alive:
            return await self._forwarded(admitted)
        loop = asyncio.get_running_loop()
        answer = asyncio.Task(self._forwarded(admitted), loop=loop, eager_start=True)
        try:
            while not (answer.done() or (await asyncio.wait((answer,), timeout=seconds))[0]):
                if admitted.wants_stream:
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
            kept_alive=admitted.kept_alive,
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
            return _relay(admitted, answer, forwarded.attempts, recorder, self._settler, self._forwarder.late), None
        except BaseException:
            answer.close()
            raise

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
            headers = gateway_headers(received, admitted.plan, failed.attempts)
            return ErrorResponse(error, headers, admitted.call.operation.format)
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
    settlement: Settlement,
    late: LateAttempts,
) -> RelayedResponse:
    """The response that relays a backend's answer, and puts its end on record."""
    received, record = admitted.received, admitted.record
    first_byte_ms = received.milliseconds()

    def close(usage: Usage, ended: Ended, text: str, quiet_seconds: float) -> asyncio.Future[None]:
        return record.close(
            Outcome(
                status=answer.status,
                usage=usage,
                attempts=attempts,
                served_by=answer.target,
                first_byte_ms=round(first_byte_ms),
                total_ms=round(received.milliseconds()),
                ended=ended,
                quiet_seconds=quiet_seconds,
            ),
            text,
        )

    headers = answer.headers | gateway_headers(received, admitted.plan, attempts, answer.target)
    if answer.is_empty:
        headers[WARNING] = EMPTY_ANSWER
    return RelayedResponse(
        admitted,
        answer,
        headers,
        close,
        late=late,
        deferred=DeferredCharge(recorder, settlement) if recorder is not None and recorder.deferred else None,
        recorder=recorder,
        pauses=Pauses(attempts[-1].milliseconds / 1000 if attempts else 0.0),
    )
