"""One try of a call on one target, up to its commitment. The only HTTP client of the hot path.

An answer is committed when it is the caller's: a body that came whole (or grew past what is kept in memory), a stream's
first token. Until then another target may do better, and `Failed` says so; from then on what breaks is told, never
papered over.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from shared import azure_openai, metering
from shared.circuit_breaker import Breakers
from shared.config import Timeouts
from shared.credentials import Credentials, CredentialUnavailable
from shared.types import Attempt, Call, Target

logger = logging.getLogger("tollgate.forwarding")

_MAX_BUFFERED = 4 * 1024 * 1024  # bytes of a body held back so that failing over stays possible
_END_OF_BODY = 0.1  # seconds
_CLOSED_EARLY = "closed the connection before its answer was complete"

_LONG_URL = 300  # characters; a caller's query may make one, and is not worth remembering
_known_url = functools.lru_cache(maxsize=1024)(functools.partial(URL, encoded=True))


def _url(text: str) -> URL:
    return _known_url(text) if len(text) <= _LONG_URL else URL(text, encoded=True)


class UpstreamResponse:
    """The answer of a target, committed. `head`: the part of the body that has been read already.

    `meter` follows what comes after it; `complete`: nothing does. `deadline`: when the rest must have come, on the
    event loop's clock. One per call; to be closed by whoever relays it.
    """

    def __init__(
        self,
        target: Target,
        response: aiohttp.ClientResponse,
        head: bytes,
        *,
        deadline: float,
        meter: metering.StreamMeter | None = None,
        complete: bool = False,
    ) -> None:
        self.target = target
        self.status = response.status
        self.headers = azure_openai.returned_headers(response.headers)
        self.content = response.content
        self.head = head
        self.deadline = deadline
        self.meter = meter or metering.BodyMeter(head)
        self.complete = complete
        self.attempts: tuple[Attempt, ...] = ()
        self._response = response

    async def read_to_end(self) -> None:
        """Behind the end of a stream nothing but the end of the body should come: wait a moment for it, because only a
        connection that was read to its end can be used again."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_END_OF_BODY):
                while await self.content.readany():
                    pass

    def close(self) -> None:
        """Give back the connection of an answer read to its end; else close it, which tells the backend to stop."""
        if self.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Failed(Exception):
    """A try that another target may better. `answer`: what the backend said, if it said something."""

    def __init__(
        self, problem: str, status: int = 0, answer: UpstreamResponse | None = None, wait: float | None = None
    ) -> None:
        super().__init__(problem)
        self.wait = wait
        self.problem = problem
        self.status = status
        self.answer = answer


class Throttled(Failed):
    """429."""


class TimedOut(Failed):
    """No answer within the time for it."""


class Garbage(Failed):
    """An answer that is none."""


class Upstream:
    """Tries targets, one at a time. Owns the one client session of the process."""

    def __init__(self, credentials: Credentials, breakers: Breakers, timeouts: Timeouts) -> None:
        self._credentials = credentials
        self._breakers = breakers
        self._timeouts = timeouts
        self._timeout = aiohttp.ClientTimeout(None, sock_connect=timeouts.connect)
        self._stream_timeout = aiohttp.ClientTimeout(None, sock_connect=timeouts.connect, sock_read=timeouts.total)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def attempt(self, call: Call, target: Target, limit: float, request_id: str) -> UpstreamResponse:
        """One try, committed within `limit` seconds. Raises `Failed`; the breakers learn how it went."""
        request = azure_openai.upstream_request(call, target)
        opener = self._credentials.known(target.backend, request.scope) or await self._opener(target, request.scope)
        try:
            async with asyncio.timeout(limit):
                response = await self._request(call, request, opener, request_id)
                try:
                    return await self._commit(call, target, response)
                except BaseException:
                    response.close()
                    raise
        except aiohttp.ConnectionTimeoutError:
            self._breakers.fault(target, "connect timeout")
            raise TimedOut(f"no connection within {self._timeouts.connect:g} s") from None
        except TimeoutError:
            self._breakers.fault(target, "timeout")
            raise TimedOut(f"no answer within {limit:.1f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem = (
                _CLOSED_EARLY if isinstance(error, aiohttp.ClientPayloadError) else f"{type(error).__name__}: {error}"
            )
            self._breakers.fault(target, problem[:200])
            raise Failed(problem[:200]) from None

    async def _opener(self, target: Target, scope: str) -> tuple[str, str]:
        """The header that opens a backend, when it has to be waited for. That it cannot be had is no fault of the
        backend's, and every backend that the gateway's identity opens shares it: no reason to eject this one."""
        try:
            return await self._credentials.header(target.backend, scope)
        except CredentialUnavailable as error:
            raise Failed(str(error)) from None

    async def _request(
        self, call: Call, request: azure_openai.UpstreamRequest, opener: tuple[str, str], request_id: str
    ) -> aiohttp.ClientResponse:
        name, value = opener
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-ms-client-request-id": request_id,
            **call.headers,
            name: value,
        }
        response = await self._session.request(
            request.method,
            _url(request.url),
            data=request.body,
            headers=headers,
            allow_redirects=False,
            timeout=self._stream_timeout if call.stream else self._timeout,
        )
        if response.status == 401 and name == "authorization":
            self._credentials.forget(request.scope)
        return response

    async def _commit(self, call: Call, target: Target, response: aiohttp.ClientResponse) -> UpstreamResponse:
        """Read until the answer is the caller's. Raises `Failed` where another target may do better."""
        if response.status == 200 and response.content_type == "text/event-stream":
            answer = await self._first_token(call, target, response)
            self._breakers.success(target)
            return answer
        body, complete = await _read(response, _MAX_BUFFERED)
        answer = UpstreamResponse(target, response, body, deadline=_in(self._timeouts.total), complete=complete)
        match azure_openai.classify(response.status, body):
            case "capacity":
                wait = azure_openai.retry_after(response.headers)
                if azure_openai.has_room(response.headers):
                    # Too large for what is left, while others may still fit: no reason to keep them away.
                    raise Throttled("too large for what is left of its quota", response.status, wait=wait)
                self._breakers.throttle(target, wait)
                raise Throttled("throttled", response.status, wait=wait)
            case "server":
                self._breakers.fault(target, f"status {response.status}")
                raise Failed(f"status {response.status}", response.status, _worth_telling(answer))
            case "ours":
                reason = f"status {response.status} {azure_openai.error_code(body)}".rstrip()
                self._breakers.refusal(target, reason)
                logger.error(
                    "ALERT backend %s refuses the gateway on deployment %s (%s): left alone for 60 s. Check the role "
                    "assignment of the gateway's identity, the deployment's name and the network rules.",
                    target.backend.name, target.deployment, reason,
                )  # fmt: skip
                raise Failed(reason, response.status)
            case "ok" if response.status >= 300 or (complete and not metering.is_json_object(body)):
                # Azure OpenAI redirects nobody: something else answers at that address.
                self._breakers.fault(target, "no answer of Azure OpenAI's")
                raise Garbage(f"status {response.status}, but no answer of Azure OpenAI's", response.status)
        self._breakers.success(target)
        return answer

    async def _first_token(self, call: Call, target: Target, response: aiohttp.ClientResponse) -> UpstreamResponse:
        meter = metering.StreamMeter(strip_usage=call.usage_injected)
        head, chunk = b"", b"-"
        while chunk and not (meter.committed or meter.failed or meter.done) and len(head) <= _MAX_BUFFERED:
            chunk = await response.content.readany()
            head += meter.feed(chunk)
        if meter.failed:
            self._breakers.fault(target, "error inside a stream")
            raise Failed("reported an error before the stream's first token", response.status)
        if not meter.committed:
            self._breakers.fault(target, "empty stream")
            raise Failed("ended the stream before its first token", response.status)
        return UpstreamResponse(target, response, head, deadline=_in(self._timeouts.stream), meter=meter)


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The body, or as much of it as fits; whether that is all."""
    chunks, size = [], 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            return b"".join(chunks), False
    return (chunks[0] if len(chunks) == 1 else b"".join(chunks)), True


def _worth_telling(answer: UpstreamResponse) -> UpstreamResponse | None:
    """An error in OpenAI's shape may pass to the caller; a proxy's page may not."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if answer.complete and isinstance(
            msgspec.json.decode(answer.head, type=Mapping[str, object]).get("error"), Mapping
        ):
            return answer
    return None


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
