"""Makes one attempt of a call on one target, up to its commitment. The only HTTP client of the hot path.

An answer is committed when it belongs to the caller: a body that is complete, or larger than what is kept in memory; a
stream with its first token. Before that an attempt fails with `AttemptFailed`, and another target may do better. After
that, failures are reported to the caller, never retried.
"""

import asyncio
import contextlib
import copy
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Self

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload
from yarl import URL

from shared.alerts.dispatcher import Raise
from shared.alerts.events import credentials_refused
from shared.azure_openai import backend_requests
from shared.azure_openai.answers import ReportedError
from shared.azure_openai.backend_requests import UpstreamRequest
from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay
from shared.azure_openai.metering import BodyMeter
from shared.config.document import Timeouts
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable
from shared.forwarding._attempt import AttemptTimeout, in_seconds
from shared.forwarding._failures import (
    AccessDenied,
    AttemptFailed,
    DeadlinePassed,
    SealedElsewhere,
    Superseded,
    Throttled,
    error_below_200,
    error_in_success,
    failure_in_answer,
    failure_of_transport,
)
from shared.forwarding.response import Answer, OpenAnswer, WholeAnswer, returned_headers, whole_answer
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.quota import Sent
from shared.types import Call, Target

logger = logging.getLogger("tollgate.forwarding")

_MAX_BUFFERED = 4 * 1024 * 1024  # bytes of a body held back so that another target can still be tried
_REASON_FOLLOWS = 1.0  # seconds; Azure's `response.failed` without an error is followed by it within 0.3 s
_END_FOLLOWS = 0.1  # seconds from there to the end of the stream
_JSON = "application/json"

_LONG_URL = 300  # characters; longer URLs hold a caller's query, which is not worth caching
_cached_url = functools.lru_cache(maxsize=1024)(functools.partial(URL, encoded=True))


class BackendClient:
    """Makes attempts. Owns the HTTP sessions of the process. `timeouts` are the configured ones. `alert` raises an
    alert, and returns at once."""

    def __init__(self, credentials: Credentials, breakers: Breakers, timeouts: Timeouts, alert: Raise) -> None:
        self._credentials = credentials
        self._alert = alert
        self._breakers = breakers
        self.timeouts = timeouts
        self._timeout = aiohttp.ClientTimeout(None, timeouts.connect)
        self._session = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=75, ttl_dns_cache=30))
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=30))  # a connection a call

    def with_settings(self, credentials: Credentials, timeouts: Timeouts) -> Self:
        """This client with other credentials and time limits, on the same connections."""
        other = copy.copy(self)
        other._credentials = credentials
        other.timeouts = timeouts
        other._timeout = aiohttp.ClientTimeout(None, timeouts.connect)
        return other

    async def close(self) -> None:
        await self._session.close()
        await self._fresh.close()

    async def attempt(
        self,
        call: Call,
        target: Target,
        timeout: AttemptTimeout,
        request_id: str,
        upload: Upload | None = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Return an answer that is committed within `timeout`, which for an upload starts with its last byte. `fresh`:
        on a connection of the attempt's own.

        Raises `AttemptFailed`, and the error in the caller's upload as it is. The breakers learn of either.
        """
        request = backend_requests.upstream_request(call, target)
        headers = await self._headers(call, target, request, request_id)
        breakers = self._breakers
        started = breakers.clock()
        tokens, move = quota.estimate(call), timeout.move
        sent = breakers.begin(target, timeout.seconds, tokens, move)
        session = self._fresh if fresh else self._session
        answered = False
        try:
            answer = await self._exchange(call, target, request, headers, sent, timeout, upload, session)
            answered = True
            breakers.shown(target, started, stream=call.stream, tokens=tokens, move=move)
            return answer
        except AttemptFailed as failed:
            self._report(call, target, failed)
            raise
        except BaseException:  # the caller's doing
            breakers.abandoned(target)
            raise
        finally:
            if not answered:
                breakers.failed(target, move)

    async def _headers(self, call: Call, target: Target, request: UpstreamRequest, request_id: str) -> dict[str, str]:
        credential = self._credentials.cached(target.backend, request.scope)
        if credential is None:
            try:
                credential = await self._credentials.header(target.backend, request.scope)
            except CredentialUnavailable as error:  # no fault of the backend's, so the breakers do not learn of it
                self._alert(credentials_refused(target.backend.name, target.deployment, str(error), time.time()))
                raise AttemptFailed(str(error)) from None
        name, value = credential
        return {
            "content-type": _JSON,
            "accept-encoding": "identity",
            "x-ms-client-request-id": request_id,
            **backend_requests.headers_for(call, target.backend),
            name: value,
        }

    async def _exchange(
        self,
        call: Call,
        target: Target,
        request: UpstreamRequest,
        headers: dict[str, str],
        sent: Sent,
        timeout: AttemptTimeout,
        upload: Upload | None,
        session: aiohttp.ClientSession,
    ) -> Answer:
        """Send the request and read the answer until it is committed."""
        status = 0
        try:
            async with timeout.timer:
                if upload is not None:
                    timeout.restart(self.timeouts.stream)
                    upload.when_sent(timeout.request_sent)
                response = await self._send(session, request, headers, timeout, upload)
                status = response.status
                self._breakers.heard(self._breakers.watched(target))
                try:
                    return await self._commit(call, target, response, sent, timeout)
                except BaseException:
                    response.close()
                    raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if upload is not None and upload.error is not None and not isinstance(error, TimeoutError):
                raise upload.error from None
            raise failure_of_transport(error, status, timeout, self.timeouts.connect) from None

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: UpstreamRequest,
        headers: dict[str, str],
        timeout: AttemptTimeout,
        upload: Upload | None,
    ) -> aiohttp.ClientResponse:
        body: _NotedBody | AsyncIterator[bytes] | None = _NotedBody(request.body, timeout) if request.body else None
        if upload is not None:
            body = _noted(upload.stream(request.form_model), timeout)
            if (length := upload.length(request.form_model)) is not None:
                headers["content-length"] = str(length)
        url = _cached_url(request.url) if len(request.url) <= _LONG_URL else URL(request.url, encoded=True)
        response = await session.request(
            request.method, url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
        )
        if response.status == 401 and "authorization" in headers:
            self._credentials.rejected(request.scope)
        return response

    async def _commit(
        self, call: Call, target: Target, response: aiohttp.ClientResponse, sent: Sent, timeout: AttemptTimeout
    ) -> Answer:
        """Read until the answer belongs to the caller."""
        breakers, timeouts = self._breakers, self.timeouts
        served_by = self._served_by(target, response, sent)
        body: EventRelay | BodyMeter
        state = breakers.watched(target)
        configured = state.configured
        heard = functools.partial(breakers.heard, state)
        if response.status == 200 and response.content_type == "text/event-stream":
            body, head = await _read_first_token(call, response, heard)
            if body.reader.failed:
                reader, whole = body.reader, head + await _rest_of_failure(body, response)
                error = reader.error or ReportedError()
                return self._settle(
                    target,
                    response,
                    error_below_200(
                        call, served_by, response.headers, error, reader.failure, whole, reader.reported(), configured
                    ),
                )
            seconds = timeouts.stream
        else:
            # A body that is not JSON shows nothing but its status, unless the objects it makes have to be recorded.
            free = call.operation.free_form and not call.makes and response.content_type != _JSON
            unread = free and response.status == 200
            head, complete = await _read(response, 0 if unread else _MAX_BUFFERED)
            if not unread:
                failed = failure_in_answer(call, target, response, head, complete=complete, configured=configured)
                if failed is not None:
                    raise failed
            if complete:
                reported = error_in_success(call, served_by, response, head, configured)
                answer = reported or whole_answer(call, served_by, response.status, response.headers, head)
                return self._settle(target, response, answer)
            body = BodyMeter(call, response.status, head)
            seconds = timeouts.stream if unread else timeouts.total
        breakers.success(target)
        return OpenAnswer(
            call=call,
            target=served_by,
            response=response,
            headers=returned_headers(call, response.headers),
            head=head,
            body=body,
            heard=heard,
            ended=functools.partial(breakers.end, target),
            deadline=min(in_seconds(seconds), timeout.call_ends),
            silence=timeouts.total,
        )

    def _settle(
        self, target: Target, response: aiohttp.ClientResponse, outcome: AttemptFailed | WholeAnswer
    ) -> WholeAnswer:
        """Return a complete answer. Raises the failure that it reports."""
        if isinstance(outcome, AttemptFailed):
            raise outcome
        self._breakers.success(target)
        self._breakers.end(target)
        if response.content.at_eof():
            response.release()
        else:
            response.close()
        return outcome

    def _served_by(self, target: Target, response: aiohttp.ClientResponse, sent: Sent) -> Target:
        """Return the deployment that served a call, and note the quota that the answer reports of the one asked."""
        headers = response.headers
        if target.backend.kind == "provisioned" and "x-ms-spillover-from-deployment" in headers:
            # The provisioned deployment was full, so Azure used a pay-as-you-go one of the same resource.
            backend = msgspec.structs.replace(target.backend, kind="standard")
            return Target(backend, target.model, headers.get("x-ms-deployment-name") or "?", target.tier)
        if (reading := quota.read(headers, sent, self._breakers.clock())) is not None:
            self._breakers.learn(target, reading)
        return target

    def _report(self, call: Call, target: Target, failed: AttemptFailed) -> None:
        """Tell the breakers of a failure, and people of one that concerns the gateway's credentials."""
        if isinstance(failed, AccessDenied) and failed.status in (401, 403):
            self._alert(credentials_refused(target.backend.name, target.deployment, failed.problem, time.time()))
        match failed:
            case Superseded(hung=True):
                pass  # it has been ejected already
            case SealedElsewhere():
                self._breakers.success(target)
            case Superseded() | DeadlinePassed():
                self._breakers.abandoned(target)
            case Throttled():
                self._breakers.throttle(target, failed.wait, failed.kind, quota.estimate(call))
            case AccessDenied(hits_the_deployment=False):
                self._breakers.abandoned(target)
                logger.error(
                    "ALERT backend %s: the role of the gateway's identity lacks the data action %s. Calls that need it "
                    "fail there, others do not. Assign a role that has it (docs/deploy.md, modelAccess).",
                    target.backend.name, failed.action,
                )  # fmt: skip
            case AccessDenied():
                self._breakers.refusal(target, failed.problem)
                logger.error(
                    "ALERT backend %s refuses the gateway on deployment %s (%s): not tried for 60 s. Check the role "
                    "assignment of the gateway's identity, the deployment's name and the network rules.",
                    target.backend.name, target.deployment, failed.problem,
                )  # fmt: skip
            case _:
                self._breakers.fault(target, failed.problem)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


class _NotedBody(BytesPayload):
    """A body that notes when it is written."""

    def __init__(self, body: bytes, timeout: AttemptTimeout) -> None:
        super().__init__(body)
        self._timeout = timeout

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._timeout.written = True
        await super().write_with_length(writer, content_length)


async def _noted(body: AsyncIterator[bytes], timeout: AttemptTimeout) -> AsyncIterator[bytes]:
    async for piece in body:
        timeout.written = True
        yield piece


async def _read_first_token(
    call: Call, response: aiohttp.ClientResponse, heard: Callable[[], None]
) -> tuple[EventRelay, bytes]:
    """Read a stream until its first token; return what may go to the caller so far. Calls `heard` for each chunk."""
    reader = EventReader(call, eager=call.background or not call.model)
    events = EventRelay(reader)
    head, chunk = b"", b"-"
    while chunk and not (reader.committed or reader.failed or events.done) and len(head) <= _MAX_BUFFERED:
        chunk = await response.content.readany()
        heard()
        head += events.feed(chunk)
    if len(head) > _MAX_BUFFERED and not reader.failed:
        reader.committed = True  # no opening event is so large: it is content, such as a picture
    if not (reader.committed or reader.failed):
        problem = "ended the stream before its first token"
        raise AttemptFailed(problem, response.status, charged=True, usage=reader.reported())
    return events, head


async def _rest_of_failure(events: EventRelay, response: aiohttp.ClientResponse) -> bytes:
    """Read a stream that has failed to its end, or for as long as its reason may follow; return what is read."""
    rest = b""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_REASON_FOLLOWS) as timeout:
            while len(rest) <= _MAX_BUFFERED:
                if events.reader.error is not None:
                    timeout.reschedule(min(loop.time() + _END_FOLLOWS, timeout.when() or loop.time()))
                if not (chunk := await response.content.readany()):
                    break
                rest += events.feed(chunk)
    return rest + events.finish()


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Read the body until it is larger than `most` bytes; return what was read, and if that is all."""
    chunks, size = [], 0
    while not response.content.at_eof() and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            return b"".join(chunks), False
    return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), True
