"""Control endpoint: scripts faults, takes regions down and up, changes limits, and returns the request log."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web

from .config import Limit
from .errors import DECODE_FAILURES
from .faults import FaultRequest
from .identity import TOKEN_PATH, IdentitySettings
from .limits import WINDOW_SECONDS, Limits
from .request_log import Received
from .server import PortTaken, Simulator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlError(Exception):
    """Invalid request to the control endpoint. The message is sent to the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LimitsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Without `region` or `deployment` all are changed. A null or absent limit is removed."""

    region: str | None = None
    deployment: str | None = None
    tokens_per_minute: Limit | None = None
    requests_per_minute: Limit | None = None
    window_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = WINDOW_SECONDS


class Control:
    """Handlers of the control endpoint; `build` returns the application, including the identity endpoint."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def build(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_json])
        application.add_routes(
            [
                web.get("/healthz", self.health),
                web.get(TOKEN_PATH, self._simulator.identity.handle),
                web.post("/identity", self.set_identity),
                web.get("/faults", self.list_faults),
                web.post("/faults", self.add_fault),
                web.delete("/faults", self.delete_faults),
                web.delete("/faults/{id}", self.delete_faults),
                web.post("/limits", self.set_limits),
                web.post("/regions/{name}/down", self.take_down),
                web.post("/regions/{name}/up", self.bring_up),
                web.post("/reset", self.reset),
                web.get("/log", self.read_log),
                web.delete("/log", self.reset_log),
                web.get("/log/bodies/last", self.last_body),
                web.get("/log/headers/last", self.last_headers),
            ]
        )
        return application

    async def health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def set_identity(self, request: web.Request) -> web.Response:
        settings = _decode(await request.read(), IdentitySettings)
        self._simulator.identity.settings = settings
        return _json(settings)

    async def list_faults(self, _request: web.Request) -> web.Response:
        return _json({"faults": self._simulator.faults.states()})

    async def add_fault(self, request: web.Request) -> web.Response:
        fault = _decode(await request.read(), FaultRequest)
        if fault.region is not None:
            self._check_region(fault.region)
        return _json({"id": self._simulator.faults.add(fault)})

    async def delete_faults(self, request: web.Request) -> web.Response:
        given = request.match_info.get("id")
        if given is None:
            return _json({"deleted": self._simulator.faults.delete()})
        deleted = self._simulator.faults.delete(int(given)) if given.isascii() and given.isdigit() else 0
        if not deleted:
            raise ControlError(404, f"there is no fault {given}")
        return _json({"deleted": deleted})

    async def set_limits(self, request: web.Request) -> web.Response:
        change = _decode(await request.read(), LimitsRequest)
        if change.region is not None:
            self._check_region(change.region)
        limits = Limits(change.tokens_per_minute, change.requests_per_minute, change.window_seconds)
        changed = 0
        for region in self._simulator.regions.values():
            for deployment in region.deployments.values():
                if change.region in (None, region.name) and change.deployment in (None, deployment.name):
                    deployment.set_limits(limits)
                    changed += 1
        if not changed:
            raise ControlError(404, f"there is no deployment {change.deployment}")
        return _json({"changed": changed})

    async def take_down(self, request: web.Request) -> web.Response:
        name = self._check_region(request.match_info["name"])
        await self._simulator.listeners[name].down()
        return _json({"region": name, "up": False})

    async def bring_up(self, request: web.Request) -> web.Response:
        name = self._check_region(request.match_info["name"])
        await self._simulator.listeners[name].up()
        return _json({"region": name, "up": True})

    async def reset(self, _request: web.Request) -> web.Response:
        await self._simulator.reset()
        return _json({})

    async def read_log(self, request: web.Request) -> web.Response:
        log = self._simulator.log
        summary = {"totals": log.totals, "tokens_issued": self._simulator.identity.tokens_issued}
        if request.query.get("summary", "0") not in ("", "0"):
            return _json(summary)
        return _json({"requests": list(log.entries), **summary})

    async def reset_log(self, _request: web.Request) -> web.Response:
        self._simulator.log.reset()
        self._simulator.identity.tokens_issued = 0
        return _json({})

    async def last_body(self, request: web.Request) -> web.Response:
        return web.Response(body=self._last_received(request).body, content_type="application/octet-stream")

    async def last_headers(self, request: web.Request) -> web.Response:
        return _json({"headers": self._last_received(request).redacted_headers()})

    def _last_received(self, request: web.Request) -> Received:
        received = self._simulator.log.last_received(request.query.get("region"))
        if received is None:
            raise ControlError(404, "no request received yet")
        return received

    def _check_region(self, name: str) -> str:
        if name not in self._simulator.regions:
            raise ControlError(404, f"there is no region {name}")
        return name


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlError as error:
        return _json({"error": str(error)}, error.status)
    except PortTaken as error:
        return _json({"error": str(error)}, 409)
    except web.HTTPError as error:
        return _json({"error": error.reason}, error.status)


def _decode[T](body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODE_FAILURES as error:
        raise ControlError(400, str(error)) from error


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")
