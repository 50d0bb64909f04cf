"""Faults of simulated regions: `make run` lets operators break a region from the page, and watch the failover.

These routes exist only where `GATEWAY_SIMULATOR` names the control endpoint of the simulator, on this machine.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import aiohttp
import msgspec
from starlette.responses import Response

from shared.auth.operators import ADMINS
from shared.config.document import Configuration
from shared.errors import BadGateway, ResourceNotFound
from shared.management import _answers as answers
from shared.management.audit import Audit, Change
from shared.management.drains import backend_named
from shared.management.routes import ManagementRequest, Route, checked
from shared.responses.rendering import JsonResponse

Fault = Literal["throttle", "fail", "hang", "slow"]

_PATIENCE = aiohttp.ClientTimeout(total=5.0)
_EFFECTS: Mapping[Fault, Mapping[str, Any]] = {  # as the simulator takes them (simulator/faults.py)
    "throttle": {"kind": "status", "status": 429, "headers": {"retry-after": "5"}},
    "fail": {"kind": "status", "status": 500},
    "hang": {"kind": "hang"},
    "slow": {"kind": "delay", "seconds": 3.0},
}


class NewFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fault that strikes every call to a region until the region is restored."""

    fault: Fault


class SimulationRoutes:
    """The paths below `/gateway/simulation`. `control`: the URL of the simulator's control endpoint."""

    def __init__(self, control: str, configuration: Configuration, audit: Audit) -> None:
        self._control = control
        self._configuration = configuration
        self._audit = audit

    def routes(self) -> Sequence[Route]:
        at, one = "/gateway/simulation", "/gateway/simulation/{backend}"
        return (
            Route("GET", at, "operator", self._all, gives=answers.Simulation),
            Route("PUT", one, "operator", self._break, ADMINS, takes=NewFault, status=204),
            Route("DELETE", one, "operator", self._restore, ADMINS, status=204),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the faults of the simulated regions."""
        regions, faults = await self._regions(), await self._faults()
        backends = [
            {"name": backend.name, "fault": _name(faults.get(regions.get(backend.endpoint, "")))}
            for backend in self._configuration.backends
        ]
        return JsonResponse({"backends": backends})

    async def _break(self, request: ManagementRequest) -> Response:
        """Let every call to a backend's region fail in one way, until it is restored."""
        new_fault = checked(request.object(), NewFault)
        region = await self._region(request)

        async def write() -> dict[str, Any]:
            await self._clear(region)
            return await self._ask("POST", "/faults", {"fault": _EFFECTS[new_fault.fault], "region": region})

        change = Change(request, "simulation.break", request.parameters["backend"], None, {"fault": new_fault.fault})
        await self._audit.perform(change, write)
        return Response(status_code=204)

    async def _restore(self, request: ManagementRequest) -> Response:
        """End the faults of a backend's region."""
        region = await self._region(request)

        change = Change(request, "simulation.restore", request.parameters["backend"], None, None)
        await self._audit.perform(change, partial(self._clear, region))
        return Response(status_code=204)

    async def _region(self, request: ManagementRequest) -> str:
        """The simulated region of the backend in the path. Raises `ResourceNotFound`."""
        backend = backend_named(request.parameters["backend"], self._configuration)
        region = (await self._regions()).get(backend.endpoint)
        if region is None:
            raise ResourceNotFound(f"The backend {backend.name!r} is not simulated, so it cannot be broken from here.")
        return region

    async def _regions(self) -> dict[str, str]:
        """Endpoint -> the name of its region."""
        return {url: name for name, url in (await self._ask("GET", "/regions"))["regions"].items()}

    async def _faults(self) -> dict[str, Mapping[str, Any]]:
        """Region -> the first fault there."""
        faults = (await self._ask("GET", "/faults"))["faults"]
        return {one["region"]: one["fault"] for one in reversed(faults) if one["region"] is not None}

    async def _clear(self, region: str) -> int:
        """End the faults of a region. Return their number."""
        ids = [one["id"] for one in (await self._ask("GET", "/faults"))["faults"] if one["region"] == region]
        for one in ids:
            await self._ask("DELETE", f"/faults/{one}")
        return len(ids)

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer of the control endpoint. Raises `BadGateway`."""
        try:
            async with (
                aiohttp.ClientSession(timeout=_PATIENCE) as session,
                session.request(method, self._control + path, json=body) as answer,
            ):
                if answer.status < 300:
                    return dict(await answer.json())
                problem = f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problem = type(error).__name__
        raise BadGateway(f"The simulator did not take the change ({problem}). Is it still running?")


def _name(effect: Mapping[str, Any] | None) -> str | None:
    """The name of a fault; for one that was scripted elsewhere, its kind."""
    if effect is None:
        return None
    same = (name for name, own in _EFFECTS.items() if all(effect.get(field) == value for field, value in own.items()))
    return next(same, str(effect["kind"]))
