"""The backends: their state as this instance sees it, and as the instances share it."""

from collections.abc import Sequence

from starlette.responses import Response

from shared.management.routes import ManagementRequest, Route, refuse_unknown
from shared.responses.rendering import JsonResponse
from shared.routing.report import BackendsReport


class BackendRoutes:
    """The paths below `/gateway/backends`."""

    def __init__(self, report: BackendsReport) -> None:
        self._report = report

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/gateway/backends", "operator", self._all),)

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the state of every deployment."""
        refuse_unknown(request.query)
        return JsonResponse(await self._report.report())
