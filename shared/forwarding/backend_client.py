"""One try of a call on one target, up to its commitment. The only HTTP client of the hot path.

An answer is committed when it is the caller's: a body that came whole (or grew past what is kept in memory), a stream's
first token. Until then another target may do better, and `Failed` says so; from then on what breaks is told, never
papered over.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Mapping

import aiohttp
import msgspec
from yarl import URL

from shared.azure_openai import answers, backend_requests, metering
from shared.azure_openai.event_reader import EventReader
from shared.azure_openai.event_relay import EventRelay
from shared.azure_openai.json_body import UNREADABLE
from shared.config.document import Timeouts
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable
from shared.forwarding._attempt import (
    AttemptFailed,
    AttemptTimeout,
    Disconnected,
    InvalidAnswer,
    Superseded,
    Throttled,
    TimedOut,
    in_seconds,
)
from shared.forwarding.response import CLOSED_EARLY, UpstreamResponse
from shared.requests.upload import Upload
from shared.routing import quota
from shared.routing.breakers import Breakers
from shared.routing.quota import Sent
from shared.types import BEATEN, Call, Target

logger = logging.getLogger("tollgate.forwarding")

_MAX_BUFFERED = 4 * 1024 * 1024  # bytes of a body held back so that failing over stays possible
_JSON = "application/json"

_LONG_URL = 300  # characters; a caller's query may make one, and is not worth remembering
_known_url = functools.lru_cache(maxsize=1024)(functools.partial(URL, encoded=True))


def _url(text: str) -> URL:
    return _known_url(text) if len(text) <= _LONG_URL else URL(text, encoded=True)


class BackendClient:
    """Tries targets, one at a time. Owns the one client session of the process."""

    def __init__(self, credentials: Credentials, breakers: Breakers, timeouts: Timeouts) -> None:
        self._credentials = credentials
        self._breakers = breakers
        self._timeouts = timeouts
        self._timeout = aiohttp.ClientTimeout(None, timeouts.connect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def attempt(
        self, call: Call, target: Target, patience: AttemptTimeout, request_id: str, upload: Upload | None = None
    ) -> UpstreamResponse:
        """One try, committed while `patience` lasts, which for an upload begins with its last byte. Raises `Failed`;
        the breakers learn how it went. What the caller did wrong with its upload is raised as it is."""
        request = backend_requests.upstream_request(call, target)
        opener = self._credentials.cached(target.backend, request.scope) or await self._opener(target, request.scope)
        breakers = self._breakers
        started = breakers.clock()
        mark = breakers.begin(target, patience.seconds, quota.estimate(call))
        committed, status = False, 0
        try:
            async with patience.timer:
                if upload is not None:
                    patience.restart(self._timeouts.stream)
                    upload.when_sent(functools.partial(patience.restart, patience.seconds))
                response = await self._request(call, request, opener, request_id, upload)
                status = response.status
                try:
                    answer = await self._commit(call, target, response, mark)
                except BaseException:
                    response.close()
                    raise
            committed = True
            breakers.shown(target, started, stream=call.stream)
            return answer
        except aiohttp.ConnectionTimeoutError:
            breakers.fault(target, "connect timeout")
            raise TimedOut(f"no connection within {self._timeouts.connect:g} s") from None
        except TimeoutError:
            if patience.beaten and not patience.silent:
                breakers.abandoned(target)
            else:
                breakers.fault(target, "silent while others answer" if patience.beaten else "timeout")
            if patience.beaten:
                raise Superseded(BEATEN) from None
            raise TimedOut(f"no answer within {patience.seconds:.1f} s", charged=status in (0, 200)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if upload is not None and upload.error is not None:
                breakers.abandoned(target)
                raise upload.error from None
            problem = (
                CLOSED_EARLY if isinstance(error, aiohttp.ClientPayloadError) else f"{type(error).__name__}: {error}"
            )
            breakers.fault(target, problem[:200])
            broken = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
            broken = broken and not isinstance(error, aiohttp.ClientConnectorError)
            raise (Disconnected if broken else AttemptFailed)(problem[:200], charged=status == 200) from None
        except asyncio.CancelledError:
            breakers.abandoned(target)
            raise
        finally:
            if not committed:
                breakers.failed(target)

    async def _opener(self, target: Target, scope: str) -> tuple[str, str]:
        """The header that opens a backend, when it has to be waited for. That it cannot be had is no fault of the
        backend's, and every backend that the gateway's identity opens shares it: no reason to eject this one."""
        try:
            return await self._credentials.header(target.backend, scope)
        except CredentialUnavailable as error:
            raise AttemptFailed(str(error)) from None

    async def _request(
        self,
        call: Call,
        request: backend_requests.UpstreamRequest,
        opener: tuple[str, str],
        request_id: str,
        upload: Upload | None,
    ) -> aiohttp.ClientResponse:
        name, value = opener
        headers = {
            "content-type": _JSON,
            "accept-encoding": "identity",
            "x-ms-client-request-id": request_id,
            **call.headers,
            name: value,
        }
        body: bytes | AsyncIterator[bytes] = request.body
        if upload is not None:
            body = upload.stream(request.form_model)
            if (length := upload.length(request.form_model)) is not None:
                headers["content-length"] = str(length)
        response = await self._session.request(
            request.method,
            _url(request.url),
            data=body or None,
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
        )
        if response.status == 401 and name == "authorization":
            self._credentials.rejected(request.scope)
        return response

    async def _commit(
        self, call: Call, target: Target, response: aiohttp.ClientResponse, mark: Sent
    ) -> UpstreamResponse:
        """Read until the answer is the caller's. Raises `Failed` where another target may do better."""
        headers = response.headers
        asked = target
        if target.backend.kind == "provisioned" and "x-ms-spillover-from-deployment" in headers:
            target = _spilled(target, headers)  # booked as what it was served by
        elif (reading := quota.read(headers, mark, self._breakers.clock())) is not None:
            self._breakers.learn(asked, reading)
        ended = functools.partial(self._breakers.end, asked)
        if response.status == 200 and response.content_type == "text/event-stream":
            events, head = await self._first_token(call, asked, response)
            deadline, silence = in_seconds(self._timeouts.stream), self._timeouts.total
            answer = UpstreamResponse(
                call, target, response, head, ended=ended, deadline=deadline, silence=silence, events=events
            )
            self._breakers.success(asked)
            return answer
        # What is no JSON says nothing of its success beyond its status: it is the caller's as it comes. What it makes
        # has to be noted before.
        free = call.operation.free_form and not call.makes
        as_it_comes = response.status == 200 and free and response.content_type != _JSON
        body, complete = await _read(response, 0 if as_it_comes else _MAX_BUFFERED)
        match answers.classify(response.status, body):
            case "capacity":
                raise self._throttled(call, asked, response, body)
            case "server":
                self._breakers.fault(asked, f"status {response.status}")
                raise AttemptFailed(
                    f"status {response.status}",
                    response.status,
                    UpstreamResponse(
                        call,
                        asked,
                        response,
                        body,
                        ended=_nothing,
                        deadline=in_seconds(self._timeouts.total),
                        complete=True,
                    )
                    if complete and _worth_telling(body)
                    else None,
                    spilled_to=_failed_spill(asked, headers),
                    charged=response.status == 408,
                )
            case "ours":
                reason = f"status {response.status} {answers.error_code(body)}".rstrip()
                self._breakers.refusal(asked, reason)
                logger.error(
                    "ALERT backend %s refuses the gateway on deployment %s (%s): left alone for 60 s. Check the role "
                    "assignment of the gateway's identity, the deployment's name and the network rules.",
                    asked.backend.name, asked.deployment, reason,
                )  # fmt: skip
                raise AttemptFailed(reason, response.status)
            case "ok" if response.status >= 300 or not (as_it_comes or _is_answer(call, response, body, complete)):
                # Azure OpenAI redirects nobody: something else answers at that address.
                self._breakers.fault(asked, "no answer of Azure OpenAI's")
                raise InvalidAnswer(f"status {response.status}, but no answer of Azure OpenAI's", response.status)
        self._breakers.success(asked)
        total = self._timeouts.total
        deadline = in_seconds(self._timeouts.stream if as_it_comes else total)
        return UpstreamResponse(
            call, target, response, body, ended=ended, deadline=deadline, silence=total, complete=complete
        )

    def _throttled(self, call: Call, target: Target, response: aiohttp.ClientResponse, body: bytes) -> Throttled:
        """What a 429 means for this try, and for the calls to come."""
        headers = response.headers
        wait = answers.retry_after(headers)
        kind = quota.throttle(headers, body, configured=self._breakers.watched(target).configured)
        self._breakers.throttle(target, wait, kind, quota.estimate(call))
        return Throttled(f"429: {kind}", response.status, wait=wait, spilled_to=_failed_spill(target, headers))

    async def _first_token(
        self, call: Call, target: Target, response: aiohttp.ClientResponse
    ) -> tuple[EventRelay, bytes]:
        reader = EventReader(call, eager=call.background or not call.model)
        events = EventRelay(reader)
        head, chunk = b"", b"-"
        while chunk and not (reader.committed or reader.failed or events.done) and len(head) <= _MAX_BUFFERED:
            chunk = await response.content.readany()
            head += events.feed(chunk)
        if reader.failed:
            self._breakers.fault(target, "error inside a stream")
            raise AttemptFailed("reported an error before the stream's first token", response.status, charged=True)
        if not reader.committed:
            self._breakers.fault(target, "empty stream")
            raise AttemptFailed("ended the stream before its first token", response.status, charged=True)
        return events, head


def _is_answer(call: Call, response: aiohttp.ClientResponse, body: bytes, complete: bool) -> bool:
    """Whether Azure OpenAI could have said that: a proxy's error page under status 200 is not its."""
    if not complete or (response.status == 204 and call.operation.metered == "none"):
        return True
    return (call.operation.free_form and response.content_type != "text/html") or metering.is_json_object(body)


def _spilled(target: Target, headers: Mapping[str, str]) -> Target:
    """The pay-as-you-go deployment of the same resource that Azure gave a call to, the provisioned one being full."""
    backend = msgspec.structs.replace(target.backend, kind="standard")
    return Target(backend, target.model, headers.get("x-ms-deployment-name") or target.deployment)


def _failed_spill(target: Target, headers: Mapping[str, str]) -> str:
    """The deployment that Azure asked in vain in place of a provisioned one."""
    if target.backend.kind != "provisioned" or not (
        "x-ms-spillover-error" in headers or "x-ms-spillover-from-deployment" in headers
    ):
        return ""
    name = headers.get("x-ms-deployment-name", "")
    return name if name not in ("", target.deployment) else "?"


def _nothing() -> None:
    """The end of an answer that counts nowhere as under way."""


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The body, or as much of it as fits; whether that is all."""
    chunks, size = [], 0
    while not response.content.at_eof() and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            return b"".join(chunks), False
    return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), True


def _worth_telling(body: bytes) -> bool:
    """An error in OpenAI's shape may pass to the caller; a proxy's page may not."""
    with contextlib.suppress(*UNREADABLE):
        return isinstance(msgspec.json.decode(body, type=Mapping[str, object]).get("error"), Mapping)
    return False
