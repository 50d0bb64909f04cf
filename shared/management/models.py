"""The configured models: where they are served, what they cost, and when they end. Of all, and of those that the caller
who asks may use."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.responses import Response

from shared.auth.products import within_bounds
from shared.billing.prices import Prices
from shared.config.document import Configuration, Model
from shared.lifecycle import retirement
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route
from shared.responses.rendering import JsonResponse
from shared.token_classes import AMOUNTS, TOKEN_PRICES
from shared.types import ANYWHERE, Access, Consumer

_PLAIN = Model()


class ModelRoutes:
    """The paths below `/gateway/models`. `usable` returns the models that a consumer may use."""

    def __init__(self, configuration: Configuration, usable: Callable[[Consumer], list[str]]) -> None:
        self._configuration = configuration
        self._usable = usable
        self._prices = Prices(configuration.prices, configuration.backends)

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/gateway/models", "operator", self._all, gives=answers.Models),
            Route("GET", "/gateway/models/me", "caller", self._own, gives=answers.OwnModels),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the configured models, where they are served, and when they end."""
        return JsonResponse({"models": list(models(self._configuration, self._prices, time.time()))})

    async def _own(self, request: ManagementRequest) -> Response:
        """Report the models that the caller may use, with their prices and ends."""
        caller, now = within_bounds(request.consumer, self._configuration), time.time()
        usable = frozenset(self._usable(caller))
        rows = [
            {name: one[name] for name in answers.OwnModel.__annotations__ if name in one}
            | {"usd_per_million": self._price(one["model"], now)}
            | {"backends": _places(one["served_by"], self._configuration, caller.access) if caller.access.pin else []}
            for one in models(self._configuration, self._prices, now)
            if one["model"] in usable
        ]
        return JsonResponse({"models": rows})

    def _price(self, model: str, now: float) -> dict[str, float] | None:
        """The highest price among the backends, in USD per million tokens of each class; None if it is unknown."""
        price = self._prices.dearest(model, now)
        return None if price is None else {n: each / 1e6 for n, each in price.each.items() if n in TOKEN_PRICES}


def models(configuration: Configuration, prices: Prices, now: float) -> Iterator[dict[str, Any]]:
    """The models in the order of the configuration, those last that a successor serves alone."""
    for name in dict.fromkeys([*configuration.model_names(), *configuration.switches]):
        settings = configuration.models.get(name, _PLAIN)
        end, successor = retirement.of_configured(configuration, name), settings.replaced_by
        yield {
            "model": name,
            "aliases": settings.aliases,
            "served_by": (serving := configuration.served(name, now)),
            "format": "anthropic" if serving in configuration.anthropic else "openai",
            "backends": _places(name, configuration, ANYWHERE),
            "price_known": prices.dearest(name, now) is not None,
            "prices": list(_prices(name, configuration, prices, now)),
            **{name: getattr(end, name, "") or None for name in ("retires", "replacement", "source", "read")},
            "days_left": end.days_left(now) if end is not None else None,
            "replaced_by": {"model": successor.model, "from": successor.since} if successor is not None else None,
        }


def _places(model: str, configuration: Configuration, access: Access) -> list[dict[str, str]]:
    """The deployments of a model that calls with this access may go to."""
    return [
        {"backend": backend.name, "region": backend.region, "deployment": backend.deployments[model]}
        for backend in configuration.backends
        if model in backend.models and access.allows(backend, model)
    ]


def _prices(name: str, configuration: Configuration, prices: Prices, now: float) -> Iterator[dict[str, Any]]:
    """The prices of a model in the standard tier: one for all backends at which it is the same."""
    places: dict[tuple[str, tuple[tuple[str, float], ...]], list[str]] = {}
    for backend in configuration.backends:
        if name in backend.models and (entry := prices.line(name, now, backend=backend.name)) is not None:
            amounts = tuple((each, usd) for each in AMOUNTS if (usd := getattr(entry.line, each)) is not None)
            places.setdefault((entry.source, amounts), []).append(backend.name)
    for (source, amounts), backends in places.items():
        yield {"backends": backends, "source": source, "usd": dict(amounts)}
