"""The backends: their state as this instance sees it and as the instances share it, and which ones are drained."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from shared.auth.operators import ADMINS
from shared.management import _answers as answers
from shared.management.drains import DrainTable, seconds
from shared.management.routes import ManagementRequest, Route, checked, is_forced, printable
from shared.responses.rendering import JsonResponse
from shared.routing.report import BackendsReport, shown_drain

_LONGEST_REASON = 200  # characters


class NewDrain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drain to be made. `for`: its duration, such as `30m`, `2h` or `PT2H30M`."""

    lasts: str = msgspec.field(name="for", default="")
    reason: str = ""


class BackendRoutes:
    """The paths below `/gateway/backends`."""

    def __init__(self, report: BackendsReport, drains: DrainTable) -> None:
        self._report = report
        self._drains = drains

    def routes(self) -> Sequence[Route]:
        at, one = "/gateway/backends", "/gateway/backends/{name}/drain"
        draining: dict[str, Any] = {"takes": NewDrain, "gives": answers.Drained, "query": ("force",)}
        return (
            Route("GET", at, "operator", self._all, gives=answers.Backends),
            Route("PUT", one, "operator", self._drain, ADMINS, **draining),
            Route("DELETE", one, "operator", self._restore, ADMINS, status=204),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the state of every deployment."""
        return JsonResponse(await self._report.report())

    async def _drain(self, request: ManagementRequest) -> Response:
        """Take a backend out of service for a time."""
        body = checked(request.object(), NewDrain)
        name, lasts = request.parameters["name"], seconds(body.lasts)
        reason = printable("reason", body.reason, _LONGEST_REASON)
        drain = await self._drains.drain(request, name, lasts, reason, force=is_forced(request.query))
        await self._report.drains.read()  # this instance need not wait for its next reading
        return JsonResponse({"name": name, "drained": shown_drain(drain, self._report.now())})

    async def _restore(self, request: ManagementRequest) -> Response:
        """Put a backend back into service."""
        await self._drains.restore(request, request.parameters["name"])
        await self._report.drains.read()
        return Response(status_code=204)
