"""The configured models: where they are served, if their prices are known, and when they end."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.responses import Response

from shared.billing.prices import Prices
from shared.config.document import Configuration, Model
from shared.lifecycle import retirement
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, refuse_unknown
from shared.responses.rendering import JsonResponse

_PLAIN = Model()


class ModelRoutes:
    """The paths below `/gateway/models`."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._prices = Prices(configuration.prices, configuration.backends)

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/gateway/models", "operator", self._all, gives=answers.Models),)

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the configured models, where they are served, and when they end."""
        refuse_unknown(request.query)
        return JsonResponse({"models": list(models(self._configuration, self._prices, time.time()))})


def models(configuration: Configuration, prices: Prices, now: float) -> Iterator[dict[str, Any]]:
    """The models in the order of the configuration, those last that a successor serves alone."""
    for name in dict.fromkeys([*configuration.model_names(), *configuration.switches]):
        settings = configuration.models.get(name, _PLAIN)
        end, successor = retirement.of_configured(configuration, name), settings.replaced_by
        yield {
            "model": name,
            "aliases": settings.aliases,
            "served_by": configuration.served(name, now),
            "backends": [
                {"backend": backend.name, "region": backend.region, "deployment": backend.models[name]}
                for backend in configuration.backends
                if name in backend.models
            ],
            "price_known": prices.dearest(name, now) is not None,
            "retires": end.retires if end is not None else None,
            "days_left": end.days_left(now) if end is not None else None,
            "replacement": (end.replacement or None) if end is not None else None,
            "source": end.source if end is not None else None,
            "read": (end.read or None) if end is not None else None,
            "replaced_by": {"model": successor.model, "from": successor.since} if successor is not None else None,
        }
