"""Route: bind a call to the backends that hold the objects it names, then put the deployments in order."""

import asyncio
from collections.abc import Mapping

import msgspec

from shared.affinity.directory import ObjectDirectory
from shared.azure_openai import identity_paths, residency
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.outline import LARGE
from shared.config.document import Backend
from shared.errors import RegionNotAllowed, StateConflict, WholeAccountNotAllowed
from shared.routing import preferences
from shared.routing.router import Router
from shared.types import UNBOUND, Binding, Call, Consumer, Plan


class Planner:
    """One per process."""

    def __init__(self, router: Router, directory: ObjectDirectory) -> None:
        self._router = router
        self._directory = directory
        self._one_at_a_time = asyncio.Lock()

    def named(self, consumer: Consumer, call: Call) -> Call:
        """The call with the configured names of all models that the requests of its batch name. Raises as
        `Router.model` and `Router.check_api`."""
        if call.batch is None:
            return call
        models = {name: self._router.model(consumer, name) for name in call.batch.names}
        for model in models.values():
            self._router.check_api(model, call)
        return msgspec.structs.replace(call, batch=msgspec.structs.replace(call.batch, models=models))

    def batch(self, call: Call) -> BatchSize | None:
        """The size of the batch that a planned call makes, if it is known."""
        return self._directory.lines(call)

    async def plan(self, consumer: Consumer, call: Call, headers: Mapping[str, str]) -> tuple[Plan, Binding]:
        """Return the deployments for a call in order, and the backends that it is bound to.

        A call that the gateway answers by itself has no deployments. Raises `GatewayError`: what `Router.plan` and
        `ObjectDirectory.bind` raise.
        """
        if call.operation.local:
            model = self._router.visible_model(consumer, call) if call.model else ""
            return Plan(model=model, targets=[]), UNBOUND
        self._check_models(consumer, call)
        await self._check_body(consumer, call)
        preferred = preferences.parse(headers)
        binding = UNBOUND
        if call.stateful:
            model = self._router.model(consumer, call.model) if call.model else ""
            binding = await self._directory.bind(consumer, call, model)
        plan = self._router.plan(consumer, call, preferred, binding)
        if call.batch is not None:  # its body names its models: no other one takes their place
            own = [target for target in plan.targets if target.model == plan.model]
            plan = msgspec.structs.replace(plan, targets=own, fallback_on=frozenset())
        return plan, binding

    async def check(self, consumer: Consumer, call: Call, backend: Backend) -> None:
        """Check that a consumer may use a connection to a backend, with the models and objects that this call names on
        it. Raises `GatewayError`."""
        model = self._router.model(consumer, call.model) if call.model else ""
        await self._check_body(consumer, call)
        if not consumer.access.allows(backend, model):
            raise RegionNotAllowed(f"This key may no longer use the backend {backend.name!r} of this connection.")
        self._check_models(consumer, call)
        for reference, location in (await self._directory.locate(consumer, call.references)).items():
            if location.backend != backend.name:
                raise StateConflict(
                    f"The {reference.kind.replace('_', ' ')} {reference.id[:128]} is in {location.backend}, and this "
                    f"connection goes to {backend.name}: name it in the first event of a new connection."
                )

    async def _check_body(self, consumer: Consumer, call: Call) -> None:
        """Refuse what a consumer may not name in a body. A large one is read on another thread, one at a time."""
        if len(call.body) <= LARGE:
            _check_body(consumer, call)
            return
        async with self._one_at_a_time:
            await asyncio.to_thread(_check_body, consumer, call)

    def _check_models(self, consumer: Consumer, call: Call) -> None:
        for name in call.other_models if consumer.models is not None else ():
            self._router.model(consumer, name)


def _check_body(consumer: Consumer, call: Call) -> None:
    """Raise `RegionNotAllowed` for what may leave the places that a consumer's calls must stay in, and
    `WholeAccountNotAllowed` for what the backend would read with its own identity."""
    if consumer.access.is_limited and (left := residency.leaving(call, consumer.access)) is not None:
        path, reason = left
        raise RegionNotAllowed(
            f"{path}: this key's calls must stay in certain regions or data zones, but {reason}. Leave it out.",
            param=path,
        )
    if not consumer.access.whole_account and (path := identity_paths.used(call)):
        raise WholeAccountNotAllowed(
            f"{path}: the backend would use its own identity or a stored connection here, which may reach what this "
            "key may not. Send credentials of your own, or ask the gateway's operator for a key with --whole-account.",
            param=path,
        )
