"""From an admitted call to what its caller receives: forwarded, relayed or refused, and accounted for on every way."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from starlette.responses import Response

from shared.affinity import listing
from shared.affinity.directory import ObjectDirectory
from shared.affinity.recorder import ObjectRecorder
from shared.azure_openai import metering
from shared.errors import GatewayError, StateUnavailable, UpstreamTimeout
from shared.forwarding.forwarder import Forwarder, ForwardingFailed
from shared.forwarding.response import UpstreamResponse
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerConnection, CallerDisconnected
from shared.requests.upload import Upload
from shared.responses.keep_alive import KeepAliveResponse
from shared.responses.relay import Ended, RelayedResponse
from shared.responses.rendering import ErrorResponse
from shared.routing.router import Router, explained
from shared.types import LEFT, Attempt, Binding, Call, Consumer, Outcome, Plan, Target, Usage

HUNG_UP = 499  # nobody receives it; it stands in the record of a call whose caller left


class ListRefused(Exception):
    """A backend refused to list its objects, in its own words."""

    def __init__(self, upstream: UpstreamResponse) -> None:
        super().__init__(f"status {upstream.status}")
        self.upstream = upstream


class AdmittedCall(NamedTuple):
    """All that the rest of an admitted call needs. `heartbeat`: seconds of silence after which a stream gets a comment;
    0: never."""

    arrival: ReceivedRequest
    consumer: Consumer
    call: Call
    plan: Plan
    binding: Binding
    upload: Upload | None
    client: CallerConnection
    account: Callable[..., asyncio.Future[None]]  # of an `Outcome` and the text that was said
    heartbeat: float


class Dispatcher:
    """Gets answers. One per process."""

    def __init__(self, router: Router, forwarder: Forwarder, affinity: ObjectDirectory) -> None:
        self._router = router
        self._forwarder = forwarder
        self._affinity = affinity

    async def answer(self, forwarding: AdmittedCall) -> Response:
        """What the caller receives. Raises `GatewayError` and `ClientGone`; what it raises is accounted for."""
        if forwarding.call.operation.lists:
            return await self._list(forwarding)
        call, seconds = forwarding.call, forwarding.heartbeat
        may_stream = call.stream or (forwarding.upload is not None and call.operation.streams)
        if not (may_stream and seconds):
            return await self._forward(forwarding)
        loop = asyncio.get_running_loop()
        answer = asyncio.Task(self._forward(forwarding), loop=loop, eager_start=True)
        try:
            while not (answer.done() or (await asyncio.wait((answer,), timeout=seconds))[0]):
                if _wants_stream(forwarding):
                    return KeepAliveResponse(answer, {"x-gateway-request-id": forwarding.arrival.request_id}, seconds)
            return answer.result()
        except BaseException:
            answer.cancel()
            raise

    async def _forward(self, forwarding: AdmittedCall) -> RelayedResponse | ErrorResponse:
        """The answer of the first target that gives one; accounted for also when none does. Raises `GatewayError` and
        `CallerDisconnected`."""
        arrival, call, plan, client = forwarding.arrival, forwarding.call, forwarding.plan, forwarding.client
        failure: Outcome | None = Outcome(status=500, ended="cut")
        upstream: UpstreamResponse | None = None
        sending = self._forwarder.sending(call, plan, arrival.request_id, arrival.started, forwarding.upload)
        try:
            async with client:
                upstream = await sending.run()
            witness = None
            if call.stateful:
                witness = ObjectRecorder(self._affinity, forwarding.consumer, call, upstream.target.backend.name)
            response = _answer(forwarding, upstream, witness)
            failure = None
            return response
        except ForwardingFailed as failed:
            error = state_unavailable(failed.error, forwarding.binding)
            failure = Outcome(status=error.status, attempts=failed.attempts, ended="refused")
            return ErrorResponse(error, _gateway_headers(arrival, plan, failed.attempts))
        except CallerDisconnected:
            failure = hung_up(call, sending.attempts, round(arrival.milliseconds()))
            raise
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

    async def _list(self, forwarding: AdmittedCall) -> Response:
        """A list of the consumer's own objects, out of the lists of the backends that keep some."""
        arrival, call = forwarding.arrival, forwarding.call
        attempts: list[Attempt] = []
        outcome = Outcome(status=500, ended="cut")

        async def ask(backend: str, page: Call) -> bytes:
            binding = Binding(frozenset((backend,)), backend)
            plan = self._router.plan(forwarding.consumer, page, binding=binding)
            upstream = await self._forwarder.sending(page, plan, arrival.request_id, arrival.started).run()
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
            return ErrorResponse(failed.error, _gateway_headers(arrival, forwarding.plan, failed.attempts))
        except CallerDisconnected:
            outcome = Outcome(status=HUNG_UP, ended="hung_up")
            return Response(status_code=HUNG_UP)
        except GatewayError as error:
            outcome = Outcome(status=error.status, ended="refused")
            raise
        finally:
            if outcome.status != 200:
                forwarding.account(outcome)


def _wants_stream(forwarding: AdmittedCall) -> bool:
    """Whether comments may go out. An upload says that it wants a stream where its fields stand, and who still sends it
    keeps the connection alive."""
    upload = forwarding.upload
    return forwarding.call.stream if upload is None else upload.complete and upload.asks_for_stream


def hung_up(call: Call, tried: tuple[Attempt, ...], milliseconds: int) -> Outcome:
    """How a call ended whose caller left before its answer. The backend that was at it has read the prompt, and charges
    for that; what others charge stands at their tries."""
    at_it = next((one.target for one in reversed(tried) if one.problem in ("", LEFT)), None)
    return Outcome(
        status=HUNG_UP,
        usage=metering.unanswered(call) if at_it is not None else Usage(),
        attempts=tried,
        served_by=at_it,
        total_ms=milliseconds,
        ended="hung_up",
    )


def heartbeat_wanted(headers: Mapping[str, str], seconds: float) -> float:
    """A caller that wants none says so in a header."""
    return 0.0 if headers.get("x-gateway-heartbeat", "").lower() == "off" else seconds


def state_unavailable(error: GatewayError, binding: Binding) -> GatewayError:
    """What a caller is told when no target answered: of a call that only one backend can serve, why that is so."""
    if binding.only is None or error.status == 429:
        return error
    why = "It did not answer in time." if isinstance(error, UpstreamTimeout) else "It cannot be reached now."
    return StateUnavailable(f"{binding.reason} {why}")


def _answer(forwarding: AdmittedCall, upstream: UpstreamResponse, witness: ObjectRecorder | None) -> RelayedResponse:
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
    return RelayedResponse(
        upstream,
        forwarding.client,
        headers,
        close,
        heartbeat=forwarding.heartbeat,
        witness=witness,
        upload=forwarding.upload,
    )


def _gateway_headers(
    arrival: ReceivedRequest, plan: Plan, attempts: Sequence[Attempt], served_by: Target | None = None
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
