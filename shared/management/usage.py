"""Usage and cost: of all consumers, and of the caller who asks."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from shared.auth.consumers import Consumers
from shared.billing import report as usage_report
from shared.billing.charges import Tariff
from shared.config.document import Configuration
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, choice
from shared.management.turns import Turns
from shared.responses.rendering import JsonResponse
from shared.storage import Store

_OWN = tuple(name for name in usage_report.PARAMETERS if name != "key")


class UsageRoutes:
    """The paths below `/gateway/usage`."""

    def __init__(self, store: Store, configuration: Configuration) -> None:
        self._store = store
        self._tariff = Tariff.of(configuration)
        # A report may read the rows of two hours. Callers' reports do not hold up those of operators.
        self._operators, self._callers = Turns(2, 16), Turns(1, 2)

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/gateway/usage", "operator", self._all, gives=answers.Usage, query=usage_report.PARAMETERS),
            Route("GET", "/gateway/usage/me", "caller", self._own, gives=answers.Usage, query=_OWN),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report usage and cost of all consumers."""
        async with self._operators.take(request.actor.name):
            names = await Consumers(self._store).names()
            return await self._report(request.query, "key", names)

    async def _own(self, request: ManagementRequest) -> Response:
        """Report usage and cost of the caller."""
        caller = request.consumer
        async with self._callers.take(caller.id):
            return await self._report({**request.query, "key": caller.id}, "model", {caller.id: caller.name})

    async def _report(self, query: Mapping[str, str], by: str, names: Mapping[str, str]) -> Response:
        form = choice(query, "format", ("json", "csv"))
        parameters = usage_report.parse_query(query, self._store.now(), by=by)
        report = await usage_report.report(self._store, self._tariff, parameters)
        if form == "csv":
            return Response(usage_report.as_csv(report.heads(), report.rows(names)), media_type="text/csv")
        return JsonResponse(
            {
                "since": f"{parameters.since:%Y-%m-%dT%H:%MZ}",
                "until": f"{parameters.until:%Y-%m-%dT%H:%MZ}",
                "lines": report.rows(names),
                "total": report.totals(),
            }
        )
