"""Makes one attempt of a call on one target, up to the commitment of its answer (`_answer_reader.py`). The only HTTP
client of the hot path."""

import copy
import logging
import time
from collections.abc import AsyncIterator
from typing import Literal, Self

import aiohttp
from yarl import URL

from shared.alerts.dispatcher import Raise
from shared.alerts.events import credentials_refused
from shared.anthropic.backend_requests import upstream_message
from shared.azure_openai import backend_requests, sockets
from shared.azure_openai.apis import APIS
from shared.azure_openai.backend_requests import UpstreamRequest
from shared.config.document import Timeouts
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable
from shared.forwarding._answer_reader import AnswerReader
from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._failures import (
    AccessDenied,
    AttemptFailed,
    DeadlinePassed,
    NoWebSockets,
    OtherThrottled,
    SealedElsewhere,
    Superseded,
    Throttled,
    failure_of_handshake,
    failure_of_transport,
)
from shared.forwarding.response import Answer, BackendResponse
from shared.http_client import HttpClient
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.quota import Sent
from shared.types import Call, Target

logger = logging.getLogger("tollgate.forwarding")

BackendSocket = aiohttp.ClientWebSocketResponse[Literal[False]]
LARGEST_MESSAGE = 16 * 1024 * 1024  # bytes, as the other way (`edges/websocket_protocol.py`)
_HANDSHAKE = 10.0  # seconds beyond those of the connection
_CLOSING = 2.0  # seconds in which a backend has to answer the end of a connection
_PING_EVERY = 30.0  # seconds; a backend that does not answer one for 15 s is gone


class BackendClient:
    """Makes attempts. Owns the HTTP sessions of the process. `timeouts` are the configured ones. `alert` raises an
    alert, and returns at once."""

    def __init__(self, credentials: Credentials, breakers: Breakers, timeouts: Timeouts, alert: Raise) -> None:
        self._credentials = credentials
        self._alert = alert
        self._breakers = breakers
        self._configure(timeouts)
        connections = aiohttp.TCPConnector(limit=0, keepalive_timeout=75, ttl_dns_cache=30)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=30)  # a connection per attempt
        self._session, self._fresh_session = _session(connections), _session(fresh)
        self._client, self._fresh_client = HttpClient(connections), HttpClient(fresh)

    def with_settings(self, credentials: Credentials, timeouts: Timeouts) -> Self:
        """This client with other credentials and time limits, on the same connections."""
        other = copy.copy(self)
        other._credentials = credentials
        other._configure(timeouts)
        return other

    def _configure(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._timeout = aiohttp.ClientTimeout(None, timeouts.connect)
        self._reader = AnswerReader(self._breakers, timeouts)

    async def close(self) -> None:
        await self._session.close()
        await self._fresh_session.close()

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
        messages = call.surface == "anthropic"
        request = upstream_message(call, target) if messages else backend_requests.upstream_request(call, target)
        headers = await self._headers(call, target, request.scope, request_id)
        breakers = self._breakers
        started = breakers.clock()
        tokens, move = quota.estimate(call), timeout.move
        sent = breakers.begin(target, timeout.seconds, tokens, move)
        answered = False
        try:
            answer = await self._exchange(call, target, request, headers, sent, timeout, upload, fresh=fresh)
            answered = True
            breakers.answered(target, started, stream=call.stream, tokens=tokens, move=move)
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

    async def connect(self, call: Call, target: Target, request_id: str) -> BackendSocket:
        """Open a WebSocket on a target. It counts as a call under way there until `disconnected`. Raises
        `AttemptFailed`; the breakers learn of either."""
        url, scope = sockets.address(call, target)
        headers = await self._headers(call, target, scope, request_id)
        timeout = AttemptTimeout(self.timeouts.connect + _HANDSHAKE)
        self._breakers.begin(target, timeout.seconds)
        opened = False
        try:
            async with timeout.timer:
                socket = await self._session.ws_connect(
                    URL(url, encoded=True),
                    headers=headers,
                    autoclose=False,
                    heartbeat=_PING_EVERY,
                    timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=_CLOSING),
                    max_msg_size=LARGEST_MESSAGE,
                    decode_text=False,
                )
            opened = True
            self._breakers.success(target)
            return socket
        except aiohttp.WSServerHandshakeError as refused:
            if refused.status == 401 and scope and "authorization" in headers:
                self._credentials.rejected(scope)
            failed = failure_of_handshake(target, refused.status, refused.headers or {})
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failed = failure_of_transport(error, 0, timeout, self.timeouts.connect)
        except BaseException:  # the caller's doing
            self._breakers.abandoned(target)
            raise
        finally:
            if not opened:
                self._breakers.failed(target)
        self._report(call, target, failed)
        raise failed

    def disconnected(self, target: Target, problem: str) -> None:
        """A WebSocket has ended. `problem`: of its backend, which broke it; "": it was closed."""
        self._breakers.end(target)
        if problem:
            self._breakers.fault(target, problem)

    async def _headers(self, call: Call, target: Target, scope: str, request_id: str) -> dict[str, str]:
        credential = self._credentials.cached(target.backend, scope)
        if credential is None:
            try:
                credential = await self._credentials.header(target.backend, scope)
            except CredentialUnavailable as error:  # no fault of the backend's, so the breakers do not learn of it
                self._alert(credentials_refused(target.backend.name, target.deployment, str(error), time.time()))
                raise AttemptFailed(str(error)) from None
        name, value = credential
        return {
            "content-type": "application/json",
            "accept-encoding": "identity",
            APIS[target.backend.api].request_id: request_id,
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
        *,
        fresh: bool,
    ) -> Answer:
        """Send the request and read the answer until it is committed."""
        status = 0
        try:
            async with timeout.timer:
                if upload is None:
                    client = self._fresh_client if fresh else self._client
                    response: BackendResponse = await client.send(
                        request.method, request.url, headers, request.body, self._timeout, timeout.note_written
                    )
                else:
                    timeout.restart(self.timeouts.stream)
                    upload.when_sent(timeout.request_sent)
                    response = await self._send_upload(request, headers, timeout, upload, fresh=fresh)
                if response.status == 401 and request.scope and "authorization" in headers:
                    self._credentials.rejected(request.scope)
                status = response.status
                self._breakers.chunk_arrived(self._breakers.watched(target))
                try:
                    return await self._reader.read(call, target, response, sent, timeout.call_ends)
                except BaseException:
                    response.close()
                    raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if upload is not None and upload.error is not None and not isinstance(error, TimeoutError):
                raise upload.error from None
            raise failure_of_transport(error, status, timeout, self.timeouts.connect) from None

    async def _send_upload(
        self, request: UpstreamRequest, headers: dict[str, str], timeout: AttemptTimeout, upload: Upload, *, fresh: bool
    ) -> aiohttp.ClientResponse:
        body = _noted(upload.stream(request.form_model), timeout)
        if (length := upload.length(request.form_model)) is not None:
            headers["content-length"] = str(length)
        return await (self._fresh_session if fresh else self._session).request(
            request.method,
            URL(request.url, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
        )

    def _report(self, call: Call, target: Target, failed: AttemptFailed) -> None:
        """Report a failure to the breakers, and raise an alert if it concerns the gateway's credentials."""
        if isinstance(failed, AccessDenied) and failed.status in (401, 403, 429):
            self._alert(credentials_refused(target.backend.name, target.deployment, failed.problem, time.time()))
        match failed:
            case Superseded(hung=True):
                pass  # it has been ejected already
            case SealedElsewhere() | OtherThrottled():
                self._breakers.success(target)
            case Superseded() | DeadlinePassed() | NoWebSockets():
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
                    "assignment of the gateway's identity or its key, the deployment's name and the network rules; at "
                    "OpenAI the model's name, and the credit of the account.",
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


async def _noted(body: AsyncIterator[bytes], timeout: AttemptTimeout) -> AsyncIterator[bytes]:
    async for piece in body:
        timeout.note_written()
        yield piece
