"""The path of a request through one region: from the socket to an answer, a refusal or a scripted fault."""

import hmac
import time

from aiohttp import web

from . import errors
from .config import RegionConfig
from .delivery import Delivery
from .deployments import Deployment, model_body, model_list_body
from .exchange import Exchange
from .faults import Effect, Fault, FaultQueue
from .identity import IdentityProvider
from .misbehaviour import strike_on_arrival
from .operations import FREE, Answer, WholeAnswer, answer_request
from .request_log import LogEntry, RequestLog
from .requests import decode_request, outline
from .targets import Target, check_api_version, count_custom_headers, find_target

MAXIMUM_BODY_BYTES = 64 * 1_024 * 1_024
MAXIMUM_CUSTOM_HEADERS = 10


class Region:
    """`handle` answers one request, whatever it holds; only a client that leaves early cancels it."""

    def __init__(
        self, config: RegionConfig, *, api_key: str, identity: IdentityProvider, faults: FaultQueue, log: RequestLog
    ) -> None:
        self.name = config.name
        self.deployments = {deployment.name: Deployment(deployment) for deployment in config.deployments}
        self._models = list({one.model.name: one.model for one in self.deployments.values()}.values())
        self._display = config.display or config.name
        self._delivery = Delivery(config.first_token_seconds, config.seconds_per_chunk)
        self._api_key = api_key.encode()
        self._identity = identity
        self._faults = faults
        self._log = log

    def restore(self) -> None:
        """Limits as they were configured with nothing used of them, and empty prompt caches."""
        for deployment in self.deployments.values():
            deployment.restore()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = LogEntry(
            time=time.time(),
            region=self.name,
            method=request.method,
            path=request.path,
            api_version=request.query.get("api-version"),
            client_request_id=_readable(request.headers.get("x-ms-client-request-id")),
            headers=tuple(name.lower() for name in request.headers),
        )
        exchange = Exchange(request, entry, self._display)
        try:
            await self._respond(exchange)
        except ConnectionError:
            # The client left while it was being written to: the entry stays without `completed`.
            pass
        finally:
            self._log.add(entry)
        return exchange.response

    async def _respond(self, exchange: Exchange) -> None:
        entry = exchange.entry
        target = find_target(entry.method, entry.path)
        if target is not None:
            entry.surface, entry.operation, entry.deployment = target.surface, target.operation, target.deployment
        try:
            body = await exchange.request.read()
        except web.HTTPRequestEntityTooLarge:
            await _refuse(exchange, errors.payload_too_large(MAXIMUM_BODY_BYTES))
            return
        except web.RequestPayloadError:
            await _refuse(exchange, errors.not_json())
            return
        entry.body_bytes = len(body)
        self._log.received(self.name, exchange.request.raw_headers, body)
        fault = self._take_fault(entry, body) if self._faults else None
        if fault is not None and await strike_on_arrival(fault, self._faults, exchange):
            return
        try:
            await self._serve(exchange, target, body, None if fault is None else fault.effect)
        except errors.AzureError as refusal:
            if fault is not None and not fault.effect.on_arrival:
                self._faults.give_back(fault)
                entry.fault = None
            await _refuse(exchange, refusal)

    def _take_fault(self, entry: LogEntry, body: bytes) -> Fault | None:
        call = outline(body)
        entry.deployment = entry.deployment or call.model
        entry.stream = bool(call.stream)
        fault = self._faults.take(self.name, entry.deployment, entry.stream)
        if fault is not None:
            entry.fault = fault.effect.kind
        return fault

    async def _serve(self, exchange: Exchange, target: Target | None, body: bytes, effect: Effect | None) -> None:
        """Raises AzureError before anything is written."""
        self._check_headers(exchange)
        if target is None:
            raise errors.resource_not_found()
        check_api_version(target, exchange.entry.api_version)
        answer = self._list_models(target) if target.operation == "models" else self._answer(exchange, target, body)
        await self._delivery.send(answer, exchange, effect)

    def _check_headers(self, exchange: Exchange) -> None:
        custom = count_custom_headers(exchange.entry.headers)
        if custom > MAXIMUM_CUSTOM_HEADERS:
            raise errors.too_many_headers(custom, MAXIMUM_CUSTOM_HEADERS)
        headers = exchange.request.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            # The v1 surface takes a key as a bearer token too: that is how OpenAI's client sends one.
            is_key = exchange.entry.surface == "v1" and self._is_key(token)
            if not is_key and not self._identity.accepts(token, time.time()):
                raise errors.invalid_token()
        elif not self._is_key(headers.get("api-key", "")):
            raise errors.invalid_key()

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._api_key)

    def _list_models(self, target: Target) -> WholeAnswer:
        name = target.model
        return WholeAnswer(FREE, model_list_body(self._models) if name is None else model_body(self._models, name))

    def _answer(self, exchange: Exchange, target: Target, body: bytes) -> Answer:
        """The deployment, its rate limit, then what its model says."""
        entry = exchange.entry
        if target.deployment is not None and target.deployment not in self.deployments:
            raise errors.deployment_not_found()
        request = decode_request(target.operation, body)
        entry.stream = bool(request.stream)
        entry.deployment = target.deployment or request.model
        if entry.deployment is None:
            raise errors.missing_parameter("model")
        deployment = self.deployments.get(entry.deployment)
        if deployment is None:
            raise errors.deployment_not_found()
        request.check()
        dated_version = entry.api_version if target.surface == "dated" else None
        now = time.monotonic()
        try:
            deployment.admit(request.estimated_tokens, target.operation, dated_version, self._display, now)
        finally:
            exchange.headers.update(deployment.headers(now))
        return answer_request(request, deployment.model, deployment.cache, api_version=dated_version, now=entry.time)


async def _refuse(exchange: Exchange, refusal: errors.AzureError) -> None:
    exchange.entry.input_tokens = refusal.charged_tokens
    await exchange.send(refusal.status, refusal.body, headers=refusal.headers)


def _readable(header: str | None) -> str | None:
    """aiohttp keeps bytes that are not UTF-8 as lone surrogates, which can be written nowhere."""
    return None if header is None else header.encode("utf-8", "replace").decode()
