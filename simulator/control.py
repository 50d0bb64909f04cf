"""Control endpoint: scripts faults, takes regions down and up, changes limits, and returns the request log."""

import typing
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
from aiohttp import web

from .config import Limit
from .errors import DECODE_FAILURES
from .faults import AnyEffect, FaultRequest
from .identity import TOKEN_PATH, IdentitySettings
from .limits import WINDOW_SECONDS, Limits
from .request_log import Received
from .server import HOST, PortTaken, Simulator
from .tenant import Mint, Roll, TenantSettings
from .tenant_sign_in import Person, SignInSettings

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
        application.add_routes([web.get("/", self.describe), web.get(TOKEN_PATH, self._simulator.identity.handle)])
        application.add_routes(self._simulator.tenant.routes())
        application.add_routes([web.route(one.method, one.path, partial(one.handler, self)) for one in _OPERATIONS])
        return application

    async def describe(self, _request: web.Request) -> web.Response:
        """The operations of this endpoint, with an example of each body."""
        operations = {f"{one.method} {one.path}": _described(one) for one in _OPERATIONS}
        kinds = {kind.__struct_config__.tag: _fields(kind) for kind in typing.get_args(AnyEffect)}
        names = {name: list(region.deployments) for name, region in self._simulator.regions.items()}
        return _json({"operations": operations, "kinds of faults": kinds, "regions": names})

    async def health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def set_identity(self, request: web.Request) -> web.Response:
        settings = _decode(await request.read(), IdentitySettings)
        self._simulator.identity.settings = settings
        return _json(settings)

    async def set_tenant(self, request: web.Request) -> web.Response:
        settings = _decode(await request.read(), TenantSettings)
        self._simulator.tenant.settings = settings
        return _json(settings)

    async def set_sign_ins(self, request: web.Request) -> web.Response:
        settings = _decode(await request.read(), SignInSettings)
        self._simulator.tenant.sign_ins.settings = settings
        return _json(settings)

    async def add_person(self, request: web.Request) -> web.Response:
        person = _decode(await request.read(), Person)
        self._simulator.tenant.sign_ins.people[person.name] = person
        return _json(person)

    async def describe_tenant(self, request: web.Request) -> web.Response:
        tenant = self._simulator.tenant
        return _json({**tenant.places(f"http://{request.host}"), "key_reads": tenant.key_reads})

    async def roll_keys(self, request: web.Request) -> web.Response:
        await self._simulator.tenant.roll(_decode(await request.read() or b"{}", Roll))
        return _json({})

    async def mint_token(self, request: web.Request) -> web.Response:
        spec = _decode(await request.read() or b"{}", Mint)
        return _json({"access_token": await self._simulator.tenant.mint(f"http://{request.host}", spec)})

    async def list_faults(self, _request: web.Request) -> web.Response:
        return _json({"faults": self._simulator.faults.states()})

    async def add_fault(self, request: web.Request) -> web.Response:
        fault = _decode(await request.read(), FaultRequest)
        if fault.region is not None:
            self._check_region(fault.region)
        return _json({"id": self._simulator.faults.add(fault)})

    async def delete_faults(self, request: web.Request) -> web.Response:
        fault_id = request.match_info.get("id")
        if fault_id is None:
            return _json({"deleted": self._simulator.faults.delete()})
        deleted = self._simulator.faults.delete(int(fault_id)) if fault_id.isascii() and fault_id.isdigit() else 0
        if not deleted:
            raise ControlError(404, f"there is no fault {fault_id}")
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

    async def addresses(self, _request: web.Request) -> web.Response:
        listeners = self._simulator.listeners
        return _json({"regions": {name: f"http://{HOST}:{listener.port}" for name, listener in listeners.items()}})

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


class _Operation(NamedTuple):
    """One operation. `example`: a body that it takes; None: it takes none."""

    method: str
    path: str
    handler: Callable[[Control, web.Request], Awaitable[web.StreamResponse]]
    about: str
    example: Any = None


_THROTTLE = {"kind": "status", "status": 429, "headers": {"retry-after": "5"}}
_OPERATIONS = (
    _Operation("GET", "/healthz", Control.health, "The simulator runs."),
    _Operation(
        *("POST", "/faults", Control.add_fault, "Script a fault; its id is returned."),
        {"fault": _THROTTLE, "region": "swedencentral", "deployment": "gpt-5.4-mini", "times": 3},
    ),
    _Operation("GET", "/faults", Control.list_faults, "The scripted faults, and how often each has struck."),
    _Operation("DELETE", "/faults", Control.delete_faults, "Delete all faults."),
    _Operation("DELETE", "/faults/{id}", Control.delete_faults, "Delete one fault."),
    _Operation(
        *(
            "POST",
            "/limits",
            Control.set_limits,
            "Set the limits of a deployment; without names: of all.",
        ),
        {"region": "swedencentral", "deployment": "gpt-5.4-mini", "tokens_per_minute": 1000, "requests_per_minute": 10},
    ),
    _Operation("GET", "/regions", Control.addresses, "The addresses of the regions."),
    _Operation("POST", "/regions/{name}/down", Control.take_down, "Refuse connections to a region."),
    _Operation("POST", "/regions/{name}/up", Control.bring_up, "Accept connections to a region again."),
    _Operation(
        *("POST", "/identity", Control.set_identity, "Change how tokens are issued; failing_status: they are not."),
        {"token_lifetime_seconds": 3600, "failing_status": None},
    ),
    _Operation("GET", "/tenant", Control.describe_tenant, "The tenant of Entra ID, its clients with their secrets."),
    _Operation(
        *("POST", "/tenant/tokens", Control.mint_token, "Mint a token of a user, app or managed identity."),
        {"name": "ann", "kind": "user", "roles": ["Gateway.Call"], "groups": [], "version": 2, "claims": {"oid": None}},
    ),
    _Operation(
        *("POST", "/tenant/keys", Control.roll_keys, "Sign with new keys; withdraw: publish the old ones no longer."),
        {"withdraw": False},
    ),
    _Operation(
        *("POST", "/tenant", Control.set_tenant, "Change how the signing keys are published."),
        {"failing_status": 503, "delay_seconds": 0},
    ),
    _Operation(
        *("POST", "/tenant/sign-ins", Control.set_sign_ins, "Change how people sign in; renews: with refresh tokens."),
        {"code_seconds": 600, "token_seconds": 3600, "renews": True},
    ),
    _Operation(
        *("POST", "/tenant/people", Control.add_person, "Let somebody sign in."),
        {"name": "ann", "roles": ["Gateway.Call"], "groups": []},
    ),
    _Operation("POST", "/reset", Control.reset, "Restore the start: no faults, regions up, an empty log."),
    _Operation("GET", "/log", Control.read_log, "The requests that the regions received; ?summary=1: totals."),
    _Operation("DELETE", "/log", Control.reset_log, "Empty the log."),
    _Operation(
        "GET", "/log/bodies/last", Control.last_body, "The body of the last request; ?region=NAME: in a region."
    ),
    _Operation("GET", "/log/headers/last", Control.last_headers, "The headers of the last request, without keys."),
)


def _described(operation: _Operation) -> dict[str, Any]:
    return {"about": operation.about} | ({"example": operation.example} if operation.example is not None else {})


def _fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The fields of a kind of fault; those with a default are optional."""
    return {field.name: "required" if field.required else "optional" for field in msgspec.structs.fields(kind)}


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlError as error:
        return _json({"error": str(error)}, error.status)
    except PortTaken as error:
        return _json({"error": str(error)}, 409)
    except web.HTTPError as error:
        reason = f"{error.reason}: {request.method} {request.path}. GET / lists what this endpoint can do."
        return _json({"error": reason}, error.status)


def _decode[T](body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODE_FAILURES as error:
        raise ControlError(400, str(error)) from error


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")
