"""The remainder of limits: of all consumers, of one, and of the caller who asks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starlette.responses import Response

from shared.auth.consumers import Consumers
from shared.auth.operators import EVERYONE
from shared.config.document import Configuration
from shared.limits import report as limits_report
from shared.limits import scopes
from shared.management import _answers as answers
from shared.management.consumers import visible
from shared.management.routes import ManagementRequest, Route
from shared.management.turns import Turns
from shared.responses.rendering import JsonResponse
from shared.storage import Store
from shared.types import Consumer

_MOST_BUDGETS = 20


class LimitRoutes:
    """The paths below `/gateway/limits`, and `/gateway/budgets`."""

    def __init__(self, store: Store, configuration: Configuration, state: Callable[[], dict[str, Any]]) -> None:
        """`state` returns that of this instance's limiter."""
        self._store = store
        self._configuration = configuration
        self._state = state
        self._budgets = Turns(1, 4)  # each reads all consumers and their budgets

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/gateway/limits", "operator", self._all, gives=answers.AllLimits),
            Route("GET", "/gateway/budgets", "operator", self._most_used, gives=answers.Budgets),
            Route("GET", "/gateway/limits/me", "caller", self._own, gives=answers.ConsumerLimits),
            Route("GET", "/gateway/limits/{consumer}", "operator", self._one, EVERYONE, gives=answers.ConsumerLimits),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the remainder of every limit, and the state of this instance's limiter."""
        consumers = (record.consumer for record in await Consumers(self._store).all())
        return JsonResponse({**self._state(), "limits": await self._lines(consumers)})

    async def _most_used(self, request: ManagementRequest) -> Response:
        """Report the budgets that are used most: of consumers, products, teams and models."""
        async with self._budgets.take(request.actor.name):
            consumers = (record.consumer for record in await Consumers(self._store).all())
            limited = scopes.of_all(consumers, self._configuration)
            lines, number = await limits_report.budgets(self._store, limited, _MOST_BUDGETS)
        return JsonResponse({"budgets": lines, "all": number})

    async def _one(self, request: ManagementRequest) -> Response:
        """Report the remainder of a consumer's limits."""
        _, record = await visible(Consumers(self._store), request)
        return await self._of(record.consumer)

    async def _own(self, request: ManagementRequest) -> Response:
        """Report the remainder of the caller's limits."""
        return await self._of(request.consumer)

    async def _of(self, consumer: Consumer) -> Response:
        return JsonResponse({"id": consumer.id, "name": consumer.name, "limits": await self._lines((consumer,))})

    async def _lines(self, consumers: Iterable[Consumer]) -> list[dict[str, Any]]:
        return await limits_report.report(self._store, scopes.of_all(consumers, self._configuration))
