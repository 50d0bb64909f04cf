"""Answers calls for lists: of a consumer's objects, which several backends keep, and of models."""

from typing import Any

import msgspec
from starlette.responses import Response

from shared.affinity import listing
from shared.affinity.directory import ObjectDirectory
from shared.anthropic.rendering import claude_object, model_page
from shared.azure_openai import answers
from shared.config.days import since_seconds
from shared.config.document import Model
from shared.errors import StateUnavailable
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.response import WholeAnswer
from shared.responses._gateway_headers import gateway_headers
from shared.responses.admitted_call import AdmittedCall
from shared.responses.rendering import JsonResponse
from shared.routing.router import Router
from shared.types import Attempt, Binding, Call, Outcome


class ListRefused(Exception):
    """A backend refused to list its objects, in its own words."""

    def __init__(self, answer: WholeAnswer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class Listings:
    """One per configuration. Each answer comes with its outcome."""

    def __init__(self, router: Router, forwarder: Forwarder, directory: ObjectDirectory) -> None:
        self._router = router
        self._forwarder = forwarder
        self._directory = directory

    async def objects(self, admitted: AdmittedCall) -> tuple[Response, Outcome]:
        """The consumer's own objects, out of the lists of the backends that keep some."""
        received, call = admitted.received, admitted.call
        attempts: list[Attempt] = []

        async def ask(backend: str, page: Call) -> bytes:
            binding = Binding(frozenset((backend,)), backend)
            plan = self._router.plan(admitted.consumer, page, binding=binding)
            forwarded = self._forwarder.sending(page, plan, received.request_id)
            answer = await forwarded.run()
            attempts.extend(forwarded.attempts)
            answer.close()
            if not isinstance(answer, WholeAnswer):
                raise StateUnavailable(f"The list of the backend {backend!r} is too large.")
            if answer.status != 200:
                raise ListRefused(answer)
            return answer.body

        try:
            own = await self._directory.own(admitted.consumer, call.operation.lists)
            places = self._directory.places(admitted.consumer, call.operation.lists)
            body = await listing.listed(call, own, admitted.binding.first, ask, places)
        except ListRefused as refused:
            answer = refused.answer
            headers = {**answer.headers, **gateway_headers(received, admitted.plan, attempts)}
            outcome = Outcome(status=answer.status, attempts=tuple(attempts[-1:]), ended="refused")
            return Response(answer.body, answer.status, headers), outcome
        headers = gateway_headers(received, admitted.plan, attempts)
        outcome = Outcome(status=200, attempts=tuple(attempts[-1:]), served_by=attempts[-1].target)
        return Response(body, 200, headers, "application/json"), outcome

    async def models(self, admitted: AdmittedCall) -> tuple[Response, Outcome]:
        """The models that the consumer may use, from the configuration; or the one that it asks for."""
        call, one = admitted.call, admitted.plan.model
        names = [one] if one else self._router.models(admitted.consumer, call.operation.format)
        models = [self._model(name, call) for name in names]
        listed = model_page if call.operation.format == "anthropic" else answers.model_list
        body = models[0] if one else listed(models, call.query)
        headers = {"x-gateway-request-id": admitted.received.request_id}
        return JsonResponse(body, headers=headers), Outcome(status=200)

    def _model(self, name: str, call: Call) -> dict[str, Any]:
        """A model as callers see it, with its end if that is known."""
        settings = self._forwarder.models.get(name, Model())
        end = self._router.end(name)
        if call.operation.format == "anthropic":
            return claude_object(name, end.retires if end is not None else "")
        ends = since_seconds(end.retires) if end is not None else None
        replaced_by = msgspec.to_builtins(settings.replaced_by) if settings.replaced_by is not None else None
        return answers.model_object(name, call.surface, ends, replaced_by)
