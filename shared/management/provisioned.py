"""Provisioned capacity for a forecast, weighed against paying by the token."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import get_args

from starlette.responses import Response

from shared.billing import provisioned
from shared.billing.prices import Prices
from shared.billing.ptu_forecast import Forecast, Place, payments_for, sources, weigh
from shared.config.document import Configuration
from shared.config.prices import DeploymentType
from shared.errors import InvalidRequest
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, choice
from shared.responses.rendering import JsonResponse

_DEPLOYMENTS: tuple[DeploymentType, ...] = get_args(DeploymentType)
_QUERY = ("requests_per_minute", "input", "output", "peak", "cached", "model", "deployment", "region")
_MOST = 1e9


class ProvisionedRoutes:
    """The path `/gateway/provisioned`, which reads nothing but the configuration and published facts."""

    def __init__(self, configuration: Configuration) -> None:
        self._prices = Prices(configuration.prices, configuration.backends)

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/gateway/provisioned", "operator", self._plan, gives=answers.ProvisionedPlans, query=_QUERY),
        )

    async def _plan(self, request: ManagementRequest) -> Response:
        """Weigh provisioned capacity for a forecast against paying by the token."""
        query = request.query
        forecast = Forecast(
            _number(query, "requests_per_minute", 0.01, _MOST),
            round(_number(query, "input", 1, _MOST)),
            round(_number(query, "output", 0, _MOST)),
            _number(query, "cached", 0, 1, "0"),
            _number(query, "peak", 1, 1000, "1"),
        )
        place, now = Place(choice(query, "deployment", _DEPLOYMENTS), query.get("region", "")), time.time()
        payments = payments_for(self._prices, place, now)
        names = [query["model"]] if query.get("model") else list(provisioned.facts().throughput.models)
        plans = [
            weighed.plan(payments) | {"curve": weighed.curve(payments)}
            for name in names
            if (weighed := weigh(name, forecast, place, self._prices, now)) is not None
        ]
        if not plans and "model" in query:
            known = (
                f"one whose throughput, price by the token and sizes on sale as {place.deployment} are known (leave it "
                "out to see those that are)"
            )
            raise InvalidRequest.of("model", known, query["model"])
        return JsonResponse({"plans": plans, "sources": sources(self._prices, place, now)})


def _number(query: Mapping[str, str], name: str, least: float, most: float, default: str | None = None) -> float:
    """Raises `InvalidRequest`, which names the parameter."""
    text = query.get(name, default)
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise InvalidRequest.of(name, f"a number from {least:g} to {most:g}", "nothing" if text is None else text)
    return number
