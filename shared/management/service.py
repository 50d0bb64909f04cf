"""Health, readiness, and the OpenAPI document of what callers may use."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from shared import __version__
from shared.anthropic import openapi
from shared.auth.operators import EVERYONE
from shared.azure_openai.openapi import VERSIONS
from shared.management import _answers as answers
from shared.management.readiness import ReadinessCheck
from shared.management.routes import ManagementRequest, Route, choice
from shared.responses.rendering import JsonResponse


class ServiceRoutes:
    """The paths about the gateway itself."""

    def __init__(self, readiness: ReadinessCheck) -> None:
        self._readiness = readiness

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/healthz", "anyone", self._health, gives=answers.Health),
            Route("GET", "/readyz", "probe", self._ready, gives=answers.Readiness),
            Route("GET", "/gateway/openapi.json", "anyone", self._openapi, query=("version",), gives=dict[str, Any]),
            Route("GET", "/gateway/operators/me", "operator", self._own_roles, EVERYONE, gives=answers.OwnRoles),
        )

    async def _health(self, request: ManagementRequest) -> Response:
        """Report liveness, which depends on nothing."""
        return JsonResponse({"status": "ok"}, headers={"x-gateway-version": __version__})

    async def _ready(self, request: ManagementRequest) -> Response:
        """Report readiness: 200 or 503. Operators also see the reason."""
        state = await self._readiness()
        body: dict[str, object] = {"status": "ready" if state.ready else "not ready"}
        if request.operator is not None:
            body |= {"store": state.store or "ok", "models_without_backend": state.models}
        return JsonResponse(body, 200 if state.ready else 503)

    async def _openapi(self, request: ManagementRequest) -> Response:
        """Describe the API for callers, as OpenAPI 3.1, or 3.0 for importers that take no newer one."""
        version = choice(request.query, "version", VERSIONS)
        return Response(openapi.document(version), media_type="application/json")

    async def _own_roles(self, request: ManagementRequest) -> Response:
        """The operator who asks, with its roles."""
        operator = request.actor
        return JsonResponse({"name": operator.name, "roles": sorted(operator.roles), "teams": sorted(operator.teams)})
