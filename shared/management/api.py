"""The gateway's own paths: finds the route of a request, checks who may use it, and reads its body.

The routes themselves stand in the modules of their resources beside this one."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.auth.authenticator import Authenticator
from shared.auth.operators import Operator, Operators, has_key
from shared.concurrency import LruDict
from shared.errors import (
    GatewayError,
    InvalidApiKey,
    MethodNotAllowed,
    Misconfigured,
    RateLimitExceeded,
    RequestTimeout,
    RequestTooLarge,
    UnknownPath,
    UnsupportedEncoding,
)
from shared.limits.admission import Admission
from shared.limits.limiter import Limiter
from shared.management.readiness import is_internal
from shared.management.routes import ManagementRequest, Paths, Route, parameters
from shared.requests.arrival import ReceivedRequest
from shared.requests.disconnect import CallerDisconnected
from shared.responses.early_refusal import early_refusal
from shared.responses.rendering import JsonResponse

_LARGEST_BODY = 1024 * 1024  # bytes: a row of the table holds no more
_BODY_SECONDS = 30.0
_OPERATOR = (50.0, 500.0)  # requests per second of one operator to one process, and at once
_CALLER = (5.0, 50.0)  # of one caller, about itself: they are not calls, which have limits
_MOST_ASKERS = 10_000


class ManagementApi:
    """Answers operators, probes, and callers about themselves."""

    def __init__(
        self, routes: Iterable[Route], limiter: Limiter, authenticator: Authenticator, operators: Operators
    ) -> None:
        self._paths = Paths(routes)
        self.owns = self._paths.owns
        self._limiter = limiter
        self._authenticator = authenticator
        self._operators = operators
        self._rates = {"operator": _Rate(*_OPERATOR), "caller": _Rate(*_CALLER)}

    async def answer(
        self, request: Request, received: ReceivedRequest, headers: Mapping[str, str], address: str
    ) -> Response:
        """Answer a request for a path that this API owns. `address`: the client's. Raises `GatewayError`."""
        admission = Admission(self._limiter)
        try:
            return await self._answered(request, received, headers, address, admission)
        except GatewayError:
            admission.leave()
            raise

    async def _answered(
        self,
        request: Request,
        received: ReceivedRequest,
        headers: Mapping[str, str],
        address: str,
        admission: Admission,
    ) -> Response:
        methods, path_parameters = self._paths.find(received.path)
        route = methods.get("GET" if received.method == "HEAD" else received.method)
        first = route or next(iter(methods.values()), None)
        access = first.access if first is not None else "operator"  # strangers learn of no path
        if access in ("caller", "operator"):
            await admission.admit(address)
        operator, caller = None, None
        if access == "caller":
            caller = await self._authenticator.authenticate(headers, address)
            self._rates["caller"].take(caller.id)
        elif access == "operator":
            operator = await self._operators.identify(headers)
            self._rates["operator"].take(operator.name)
        elif access == "probe":
            operator = await self._prober(received.path, headers, address)
        if not methods:
            raise UnknownPath(f"{received.path[:200]} is not a path of this gateway.")
        if route is None:
            allowed = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
            raise MethodNotAllowed(f"{received.method} is not a method of {received.path[:200]}.", allowed)
        if operator is not None and access == "operator":
            operator.require(route.roles)
        query = parameters(request.scope["query_string"].decode("latin-1"))
        body = await _body_of(request, headers) if route.method in ("POST", "PUT", "PATCH") else b""
        response = await route.answer(
            ManagementRequest(path_parameters, query, headers, body, caller, operator, address, received.request_id)
        )
        if route.method != "GET" and (changed := path_parameters.get("consumer") or (caller and caller.id)):
            self._authenticator.outdate(changed)  # other instances notice within a minute
        response.headers["x-gateway-request-id"] = received.request_id
        if access != "anyone":  # a cache may not know that `api-key` is a credential
            response.headers.setdefault("cache-control", "no-store")
        return response

    async def _prober(self, path: str, headers: Mapping[str, str], address: str) -> Operator | None:
        """The operator who probes; None for a probe from the same machine."""
        try:
            return await self._operators.identify(headers)
        except InvalidApiKey:
            if is_internal(address, headers):
                return None
            message = f"{path} is for operators, and for probes from the same machine: send the management key."
            raise InvalidApiKey(message) from None


def without_configuration(path: str, headers: Mapping[str, str], complaints: str, key: str | None) -> Response:
    """The answer of a gateway whose configuration cannot be used: 503, and the complaints for operators alone."""
    error = Misconfigured("This gateway is not configured. The operator can find the reason in the log.")
    response = early_refusal(error, headers)
    if path == "/readyz" and has_key(headers, key):
        ids = {name: value for name, value in response.headers.items() if name.endswith("request-id")}
        return JsonResponse({"status": "not ready", "configuration": complaints.splitlines()}, 503, ids)
    return response


class _Rate:
    """A bound on the requests of each asker to this process: a script in a loop must not slow down the callers."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._levels: LruDict[str, tuple[float, float]] = LruDict(_MOST_ASKERS)

    def take(self, name: str) -> None:
        """Count a request. Raises `RateLimitExceeded`."""
        now = self._clock()
        level, since = self._levels.get(name, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_second)
        if level < 1:
            message = f"{name} exceeds {self._per_second:.0f} requests per second to the management API."
            raise RateLimitExceeded(message, (1 - level) / self._per_second)
        self._levels[name] = (level - 1, now)


async def _body_of(request: Request, headers: Mapping[str, str]) -> bytes:
    """The whole body. Raises `RequestTooLarge`, `RequestTimeout`, `UnsupportedEncoding` and `CallerDisconnected`."""
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedEncoding("The management API reads bodies without content-encoding.", "identity")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_BODY:
                    raise RequestTooLarge(f"The body is larger than the limit of {_LARGEST_BODY} bytes on this path.")
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {_BODY_SECONDS:.0f} s.") from None
    except ClientDisconnect:
        raise CallerDisconnected from None
    return bytes(body)
