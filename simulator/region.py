"""The path of a request through one region, from the socket to an answer, an error or a scripted fault."""

import hmac
import time
from functools import partial

import msgspec
from aiohttp import web

from . import errors, sockets
from .answers import Answer
from .call import Call, Handler
from .config import RegionConfig
from .delivery import Delivery
from .deployments import Deployment
from .dialects import DIALECTS, Credentials
from .exchange import Exchange
from .faults import Effect, Fault, FaultQueue
from .forms import Form, read_form
from .identity import IdentityProvider
from .messages_errors import as_message_error
from .misbehaviour import strike_on_arrival
from .models import Model
from .request_log import LogEntry, RequestLog
from .store import Store
from .targets import Target, count_custom_headers

MAXIMUM_BODY_BYTES = 64 * 1_024 * 1_024


class _Body(msgspec.Struct, frozen=True):
    """A received body: bytes, and the form if it is multipart."""

    data: bytes
    form: Form | None


class _Outline(msgspec.Struct, frozen=True):
    """The fields that scripted faults match, read before the request is validated."""

    model: str | None = None
    stream: bool | None = None


_decode_outline = msgspec.json.Decoder(_Outline).decode


class Region:
    """`handle` answers any request; only a client that disconnects cancels it."""

    def __init__(
        self, config: RegionConfig, *, api_key: str, identity: IdentityProvider, faults: FaultQueue, log: RequestLog
    ) -> None:
        self.name = config.name
        self.dialect = DIALECTS[config.api]
        self.deployments = {deployment.name: Deployment(deployment) for deployment in config.deployments}
        self.models = list({one.model.name: one.model for one in self.deployments.values()}.values())
        self.display = config.display or config.name
        self.store = Store()
        self._delivery = Delivery(config.first_token_seconds, config.seconds_per_chunk)
        self._api_key = api_key.encode()
        self._identity = identity
        self._faults = faults
        self._log = log

    def restore(self) -> None:
        """Restore the initial state: unused configured limits, empty prompt caches, no objects."""
        self.store.clear()
        for deployment in self.deployments.values():
            deployment.restore()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = LogEntry(
            time=time.time(),
            region=self.name,
            method=request.method,
            path=request.path,
            query=request.query_string,
            api_version=request.query.get("api-version"),
            client_request_id=_readable(request.headers.get(self.dialect.client_request_id)),
            headers=tuple(name.lower() for name in request.headers),
        )
        exchange = Exchange(request, entry, self.dialect.headers(self.display, entry.client_request_id))
        try:
            await self._respond(exchange)
        except ConnectionError:
            # The client disconnected during the write: `completed` stays false.
            pass
        finally:
            self._log.add(entry)
        return exchange.response

    async def _respond(self, exchange: Exchange) -> None:
        if sockets.is_upgrade(exchange.request):
            await self._connect(exchange)
            return
        entry = exchange.entry
        target = self.dialect.find_target(entry.method, entry.path)
        if target is not None:
            entry.surface, entry.operation, entry.deployment = target.surface, target.route.path, target.deployment
            if target.surface == "anthropic":
                exchange.headers.setdefault("request-id", exchange.headers.get("x-request-id", ""))
        fault = None
        try:
            received = await self._receive(exchange)
            fault = self._take_fault(entry, target, received) if self._faults else None
            if fault is not None and await strike_on_arrival(fault, self._faults, exchange):
                return
            await self._serve(exchange, target, received, None if fault is None else fault.effect)
        except errors.AzureError as refusal:
            if fault is not None and not fault.effect.on_arrival:
                self._faults.give_back(fault)
                entry.fault = None
            await _refuse(exchange, self.dialect.refusal(refusal, entry))

    async def _connect(self, exchange: Exchange) -> None:
        """Serve a WebSocket."""
        request, entry = exchange.request, exchange.entry
        entry.operation = request.path.rpartition("/")[2]
        target = self.dialect.find_target("POST", request.path.replace("/realtime", "/responses"))
        entry.surface = None if target is None else target.surface
        entry.deployment, entry.stream = request.query.get("model") or request.query.get("deployment"), True
        self._log.received(self.name, request.raw_headers, b"")
        try:
            named = f"GET {entry.operation}"
            fault = self._faults.take(self.name, entry.deployment, named, True) if self._faults else None
            entry.fault = None if fault is None else fault.effect.kind
            if fault is not None and await strike_on_arrival(fault, self._faults, exchange):
                return
            self._check_headers(exchange, target)
            if target is None:
                raise errors.resource_not_found()
            effect = None if fault is None else fault.effect
            connection = (exchange, self._log, self._delivery.seconds_per_chunk, effect)
            if entry.operation == "responses":
                await sockets.ResponsesConnection(*connection).run(self.store, partial(self._call, exchange, target))
                return
            if request.query.get("intent") == "transcription" and entry.deployment is None:
                await sockets.RealtimeConnection(*connection).run(None)
                return
            if (deployment := self.deployments.get(entry.deployment or "")) is None:
                raise errors.deployment_not_found()
            if deployment.model.kind != "realtime":
                raise errors.operation_not_supported("realtime", deployment.model.name)
            await sockets.RealtimeConnection(*connection).run(deployment)
        except errors.AzureError as refusal:
            await _refuse(exchange, self.dialect.refusal(refusal, entry))

    def _call(self, exchange: Exchange, target: Target, body: bytes, entry: LogEntry, store: Store) -> Call:
        """The call of an event `response.create`."""
        return Call(
            store=store,
            ids=(),
            query={},
            body=body,
            form=None,
            entry=entry,
            dated_version=None,
            filters=self.dialect.filters,
            deployments=_Deployments(self, Exchange(exchange.request, entry, {}), target, None),
            charge_late=partial(self._log.charge_late, entry),
        )

    async def _receive(self, exchange: Exchange) -> _Body:
        """Raises AzureError for an unreadable body."""
        request, entry = exchange.request, exchange.entry
        if request.content_type.startswith("multipart/"):
            received = await read_form(request)
            body, form = received.raw, received.form
            entry.body_bytes = received.size
        else:
            try:
                body, form = await request.read(), None
            except web.HTTPRequestEntityTooLarge as error:
                raise errors.payload_too_large(MAXIMUM_BODY_BYTES) from error
            except web.RequestPayloadError as error:
                raise errors.not_json() from error
            entry.body_bytes = len(body)
        self._log.received(self.name, request.raw_headers, body)
        return _Body(body, form)

    def _take_fault(self, entry: LogEntry, target: Target | None, received: _Body) -> Fault | None:
        call = _outline(received)
        entry.deployment = entry.deployment or call.model
        entry.stream = bool(call.stream) or (target is not None and target.route.streams)
        operation = f"{entry.method} {entry.operation}"
        fault = self._faults.take(self.name, entry.deployment, operation, entry.stream)
        if fault is not None:
            entry.fault = fault.effect.kind
        return fault

    async def _serve(self, exchange: Exchange, target: Target | None, received: _Body, effect: Effect | None) -> None:
        """Raises AzureError, always before anything is written."""
        self._check_headers(exchange, target)
        if target is None:
            raise errors.resource_not_found()
        entry = exchange.entry
        self.dialect.check_version(target, entry.api_version)
        dated_version = entry.api_version if target.surface == "dated" else None
        deployments = _Deployments(self, exchange, target, dated_version)
        call = Call(
            store=self.store,
            ids=target.ids,
            query=exchange.request.query,
            body=received.data,
            form=received.form,
            entry=entry,
            dated_version=dated_version,
            filters=self.dialect.filters,
            deployments=deployments,
            charge_late=partial(self._log.charge_late, entry),
        )
        try:
            await self._delivery.send(_answer(target.route.handler, call), exchange, effect)
        finally:
            deployments.settle()

    def _check_headers(self, exchange: Exchange, target: Target | None) -> None:
        custom, most = count_custom_headers(exchange.entry.headers), self.dialect.most_custom_headers
        if most is not None and custom > most:
            raise errors.too_many_headers(custom, most)
        headers = exchange.request.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else None
        credentials = Credentials(
            bearer,
            headers.get("api-key", ""),
            headers.get("x-api-key", ""),
            self._is_key,
            lambda token: self._identity.accepts(token, time.time()),
        )
        self.dialect.check_credentials(credentials, target)

    def _is_key(self, key: str) -> bool:
        return hmac.compare_digest(key.encode("utf-8", "surrogateescape"), self._api_key)


class _Deployments:
    """The region's deployments for one call. Records the deployment in the log entry and the headers."""

    def __init__(self, region: Region, exchange: Exchange, target: Target, dated_version: str | None) -> None:
        self._region = region
        self._exchange = exchange
        self._target = target
        self._dated_version = dated_version
        self._admitted: tuple[Deployment, int] | None = None

    @property
    def models(self) -> list[Model]:
        return self._region.models

    def check_path(self) -> None:
        named = self._target.deployment
        if named is not None and named not in self._region.deployments:
            raise errors.deployment_not_found()

    def find(self, name: str | None) -> Deployment:
        entry = self._exchange.entry
        entry.deployment = self._target.deployment or name
        if entry.deployment is None:
            raise errors.missing_parameter("model")
        if (deployment := self._region.deployments.get(entry.deployment)) is None:
            raise errors.deployment_not_found()
        return deployment

    def admit(self, deployment: Deployment, estimated_tokens: int) -> None:
        """Raises AzureError 429, unless the call spills over to another deployment (azure-facts A.10). The
        deployment's setting takes precedence over the request's header."""
        exchange, now = self._exchange, time.monotonic()
        try:
            deployment.admit(estimated_tokens, self._target.route.path, self._dated_version, self._region.display, now)
            self._admitted = deployment, estimated_tokens
        except errors.AzureError as refusal:
            spillover = deployment.spillover or exchange.request.headers.get("x-ms-spillover-deployment") or ""
            other = self._region.deployments.get(spillover)
            if other is None or not deployment.provisioned or other.provisioned:
                raise
            exchange.headers["x-ms-spillover-from-deployment"] = deployment.name
            exchange.headers["x-ms-spillover-error"] = str(refusal.status)
            exchange.entry.spilled_to = other.name
            self.admit(other, estimated_tokens)
        finally:
            exchange.headers = self._region.dialect.limits(deployment.headers(now)) | exchange.headers
            if deployment.provisioned:
                exchange.entry.utilisation = deployment.utilisation(now)

    def settle(self) -> None:
        """Replace the estimate by the actual usage once the call has ended."""
        if self._admitted is not None:
            deployment, estimated_tokens = self._admitted
            deployment.correct(estimated_tokens, self._exchange.entry)


def _answer(handler: Handler, call: Call) -> Answer:
    """Raises AzureError, also for invalid values deep inside a body that no earlier check covers."""
    try:
        return handler(call)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        call.entry.problem = repr(error)
        raise errors.invalid_request("The request body has a value of the wrong type.") from error


def _outline(received: _Body) -> _Outline:
    """Never raises: an unreadable body has no model and no stream."""
    if received.form is not None:
        return _Outline(received.form.field("model"), received.form.true("stream"))
    try:
        return _decode_outline(received.data)
    except errors.DECODE_FAILURES:
        return _Outline()


async def _refuse(exchange: Exchange, refusal: errors.AzureError) -> None:
    exchange.entry.input_tokens = refusal.charged_tokens
    if refusal.status == 429:
        exchange.entry.retry_after = int(refusal.headers["retry-after-ms"]) / 1000
    body = refusal.body
    if exchange.entry.surface == "anthropic":
        body = as_message_error(refusal.status, body, exchange.headers["request-id"])
    await exchange.send(refusal.status, body, headers=refusal.headers)


def _readable(header: str | None) -> str | None:
    """Replace the lone surrogates that aiohttp uses for invalid UTF-8, since they cannot be encoded."""
    return None if header is None else header.encode("utf-8", "replace").decode()
