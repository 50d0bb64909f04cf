"""The gateway's own paths, as a table: each is one line of `_PATHS`, with who may open it."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shared import __version__
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.azure_openai import openapi
from shared.billing import report as usage_report
from shared.billing.charges import Tariff
from shared.config.document import Configuration
from shared.errors import (
    ConsumerNotFound,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    Misconfigured,
    UnknownPath,
)
from shared.limits import report as limits_report
from shared.limits import scopes
from shared.limits.limiter import Limiter
from shared.management.readiness import ReadinessCheck, is_internal
from shared.requests.arrival import ReceivedRequest
from shared.responses.rendering import ErrorResponse, JsonResponse
from shared.routing.report import BackendsReport
from shared.storage import Store
from shared.types import Consumer

# `operator`: the management key. `caller`: a caller's own key, about itself. `probe`: the management key, or a probe
# from the same machine or network.
Access = Literal["anyone", "probe", "caller", "operator"]


class ManagementRequest(msgspec.Struct, frozen=True):
    """`parameters` come from the path, `query` from behind it. `caller` is set where a caller's own key opened the
    path; `operator` says whether the management key did."""

    parameters: Mapping[str, str]
    query: Mapping[str, str]
    caller: Consumer | None = None
    operator: bool = False


class ManagementApi:
    """Answers operators, probes, and callers about themselves. `key` None: nobody is an operator."""

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        limiter: Limiter,
        authenticator: Authenticator,
        backends: BackendsReport,
        readiness: ReadinessCheck,
        key: str | None,
    ) -> None:
        self._store = store
        self._configuration = configuration
        self._limiter = limiter
        self._authenticator = authenticator
        self._backends = backends
        self._readiness = readiness
        self._key = key
        self._tariff = Tariff.of(configuration)

    @staticmethod
    def owns(path: str) -> bool:
        """True for the paths of the table, and for others that begin like one: these get a 404 of this API's."""
        return path in _PROBES or (path.startswith("/gateway/") and path.split("/", 3)[2] in _NAMES)

    async def answer(
        self, request: Request, received: ReceivedRequest, headers: Mapping[str, str], address: str
    ) -> Response:
        """Answer a request for a path that this API owns. `address`: the client's. Raises `GatewayError`."""
        method, path = received.method, received.path
        known, parameters = _find(path)
        if known.access not in ("anyone", "probe") and self._limiter.limits_addresses:
            await self._limiter.admit(address)
        operator = is_operator(headers, self._key)
        caller = None
        if known.access == "caller":
            caller = await self._authenticator.authenticate(headers, address)
        elif known.access == "operator" and not operator:
            raise InvalidApiKey("The management key is missing or wrong: send it as Authorization: Bearer KEY.")
        elif known.access == "probe" and not (operator or is_internal(address, headers)):
            raise InvalidApiKey(f"{path} answers the management key, and probes from the gateway's own network.")
        if known.handler is None:
            raise UnknownPath(f"{path[:200]} is not a path of this gateway.")
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{method} is not a method of {path[:200]}; use GET.", "GET, HEAD")
        query = _parameters(request.scope["query_string"].decode("latin-1"))
        response = await known.handler(self, ManagementRequest(parameters, query, caller, operator))
        response.headers["x-gateway-request-id"] = received.request_id
        return response

    async def health(self, request: ManagementRequest) -> Response:
        """Liveness, which depends on nothing."""
        return JsonResponse({"status": "ok"}, headers={"x-gateway-version": __version__})

    async def ready(self, request: ManagementRequest) -> Response:
        """Readiness: 200 or 503. Operators also see the reason."""
        state = await self._readiness()
        body: dict[str, object] = {"status": "ready" if state.ready else "not ready"}
        if request.operator:
            body |= {"store": state.store or "ok", "models_without_backend": state.models}
        return JsonResponse(body, 200 if state.ready else 503)

    async def openapi(self, request: ManagementRequest) -> Response:
        """The OpenAPI document of what callers may use."""
        return Response(openapi.document(), media_type="application/json")

    async def limits(self, request: ManagementRequest) -> Response:
        """The remainder of every limit, and the state of this instance's limiter."""
        _refuse_unknown(request.query)
        records = await Consumers(self._store).all()
        held = scopes.of_all((record.consumer for record in records), self._configuration)
        return JsonResponse({**self._limiter.state(), "limits": await limits_report.report(self._store, held)})

    async def backends(self, request: ManagementRequest) -> Response:
        """The state of every backend, as this instance sees it and as the instances share it."""
        _refuse_unknown(request.query)
        return JsonResponse(await self._backends.report())

    async def limits_of(self, request: ManagementRequest) -> Response:
        """The remainder of one consumer's limits."""
        _refuse_unknown(request.query)
        consumer_id = request.parameters["consumer"]
        record = await Consumers(self._store).find(consumer_id) if consumer_id.isalnum() else None
        if record is None:
            raise ConsumerNotFound(f"There is no consumer with the id {consumer_id[:64]!r}.")
        held = scopes.of_all((record.consumer,), self._configuration)
        lines = await limits_report.report(self._store, held)
        return JsonResponse({"id": record.consumer.id, "name": record.consumer.name, "limits": lines})

    async def usage(self, request: ManagementRequest) -> Response:
        """The usage of all consumers, and its cost."""
        names = {record.consumer.id: record.consumer.name for record in await Consumers(self._store).all()}
        return await self._usage(request.query, "key", names)

    async def own_usage(self, request: ManagementRequest) -> Response:
        """The usage of the caller who asks, and its cost."""
        caller = request.caller
        assert caller is not None
        if "key" in request.query:
            raise InvalidRequest("key is not a parameter here: the answer is about the caller's own key.", param="key")
        return await self._usage({**request.query, "key": caller.id}, "model", {caller.id: caller.name})

    async def _usage(self, query: Mapping[str, str], by: str, names: Mapping[str, str]) -> Response:
        _refuse_unknown(query, *usage_report.PARAMETERS)
        if (form := query.get("format", "json")) not in ("json", "csv"):
            raise InvalidRequest(f"format: expected json or csv, got {form[:64]!r}.", param="format")
        asked = usage_report.parse_query(query, self._store.now(), by=by)
        report = await usage_report.report(self._store, self._tariff, asked)
        if form == "csv":
            return Response(usage_report.as_csv(report.heads(), report.rows(names)), media_type="text/csv")
        return JsonResponse(
            {
                "since": f"{asked.since:%Y-%m-%dT%H:%MZ}",
                "until": f"{asked.until:%Y-%m-%dT%H:%MZ}",
                "lines": report.rows(names),
                "total": report.totals(),
            }
        )


def is_operator(headers: Mapping[str, str], key: str | None) -> bool:
    """True if the request has the management key. Without a key nobody is an operator."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
    return bool(key) and hmac.compare_digest(given.encode(), str(key).encode())


def without_configuration(path: str, headers: Mapping[str, str], complaints: str, key: str | None) -> Response:
    """The answer of a gateway whose configuration cannot be used: 503, and the complaints for operators alone."""
    if path == "/readyz" and is_operator(headers, key):
        return JsonResponse({"status": "not ready", "configuration": complaints.splitlines()}, 503)
    return ErrorResponse(Misconfigured("This gateway is not configured. Its operator finds the reason in its log."), {})


class _Path(NamedTuple):
    """`{name}` is one segment of any value. `handler` None: there is no such path."""

    pattern: str
    access: Access
    handler: Callable[[ManagementApi, ManagementRequest], Awaitable[Response]] | None


_PATHS = (  # the first that matches answers
    _Path("/healthz", "anyone", ManagementApi.health),
    _Path("/readyz", "probe", ManagementApi.ready),
    _Path("/gateway/openapi.json", "anyone", ManagementApi.openapi),
    _Path("/gateway/backends", "operator", ManagementApi.backends),
    _Path("/gateway/limits", "operator", ManagementApi.limits),
    _Path("/gateway/limits/{consumer}", "operator", ManagementApi.limits_of),
    _Path("/gateway/usage", "operator", ManagementApi.usage),
    _Path("/gateway/usage/me", "caller", ManagementApi.own_usage),
)
_PROBES = frozenset(known.pattern for known in _PATHS if not known.pattern.startswith("/gateway/"))
_NAMES = frozenset(known.pattern.split("/")[2] for known in _PATHS if known.pattern.startswith("/gateway/"))
_UNKNOWN = _Path("", "operator", None)  # strangers do not learn which paths there are


def _find(path: str) -> tuple[_Path, dict[str, str]]:
    segments = path.removesuffix("/").split("/")
    for known in _PATHS:
        parts = known.pattern.split("/")
        if len(parts) == len(segments) and all(
            part == segment or (part.startswith("{") and segment) for part, segment in zip(parts, segments, strict=True)
        ):
            pairs = zip(parts, segments, strict=True)
            return known, {part[1:-1]: segment for part, segment in pairs if part.startswith("{")}
    return _UNKNOWN, {}


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in parameters:
            raise InvalidRequest(f"The query has the parameter {name[:64]!r} twice.", param=name[:64])
        parameters[name] = value
    return parameters


def _refuse_unknown(query: Mapping[str, str], *known: str) -> None:
    for name in query:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise InvalidRequest(f"{name[:64]!r} is not a parameter here; expected: {expected}.", param=name[:64])
