"""Asks all backends for an object that the gateway has no record of."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from shared.azure_openai.references import KINDS
from shared.concurrency import LruDict
from shared.config.document import Backend
from shared.errors import StateUnavailable
from shared.types import Reference

_ABSENT_FOR = 60.0  # seconds for which an id that no backend has is not asked for again

Ask = Callable[[Backend, Reference], Awaitable[bool]]


class Adoption:
    """Finds the backends of unknown objects. `ask` asks a backend for an object; `absent`: those that no backend has,
    until when."""

    def __init__(self, backends: Iterable[Backend], ask: Ask, absent: LruDict[Reference, float]) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self._ask = ask
        self._absent = absent

    def with_backends(self, backends: Iterable[Backend]) -> "Adoption":
        """The adoption from other backends, with the same memory."""
        return Adoption(backends, self._ask, self._absent)

    async def holder(self, reference: Reference) -> str | None:
        """Return the name of the backend that has an object; None: none has it. Raises `StateUnavailable` if one that
        may have it does not answer."""
        clock = asyncio.get_running_loop().time
        if self._absent.get(reference, 0.0) > clock() or not KINDS[reference.kind].path:
            return None
        requests = (self._ask(backend, reference) for backend in self._backends.values())
        answers = dict(zip(self._backends, await asyncio.gather(*requests, return_exceptions=True), strict=True))
        for name, answer in answers.items():
            if answer is True:
                return name
        if silent := [name for name, answer in answers.items() if isinstance(answer, BaseException)]:
            raise StateUnavailable(
                f"The gateway has no record of {reference.id[:128]}, and cannot ask {', '.join(silent)} for it now."
            )
        self._absent[reference] = clock() + _ABSENT_FOR
        return None
