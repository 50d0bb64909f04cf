"""Whether this process can serve: `/readyz`. That it runs at all is `/healthz`, which asks nobody.

The configuration has been read or there would be nobody to answer; the table is asked, and every model needs a backend
that is neither ejected nor throttled. It tells of faults that all instances share, so it is made for a pod's start, for
deployments and for monitors. It is not made to take running instances out: with the table out of reach they serve on.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping

import msgspec

from shared.errors import StoreUnavailable
from shared.storage import Store, names

_PATIENCE = 1.0  # seconds for the table
_HOLDS = 1.0  # seconds for which an answer serves everybody who asks


class Readiness(msgspec.Struct, frozen=True):
    """`store` "": it answers. `models`: those without a usable backend."""

    store: str
    models: list[str]

    @property
    def ready(self) -> bool:
        return not self.store and not self.models


class ReadinessCheck:
    """Asks at most once a second, however often it is asked itself. `unusable` names the models without a backend."""

    def __init__(
        self, store: Store, unusable: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = store.table(names.CONSUMERS)
        self._unusable = unusable
        self._clock = clock
        self._asked_at = -_HOLDS
        self._asking: asyncio.Task[str] | None = None

    async def __call__(self) -> Readiness:
        if self._asking is None or (self._asking.done() and self._clock() - self._asked_at >= _HOLDS):
            self._asked_at = self._clock()
            self._asking = asyncio.ensure_future(self._ask())
        return Readiness(await asyncio.shield(self._asking), self._unusable())

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._table.get("readyz", "readyz")
        except TimeoutError:
            return f"no answer within {_PATIENCE:g} s"
        except StoreUnavailable as error:
            return str(error)
        return ""


def is_internal(client: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from beside this process (a probe of the kubelet, the container itself), not through
    something that forwards for others. `client`: its address, or "" where nobody tells it."""
    if not client or headers.keys() & {"x-forwarded-for", "forwarded", "x-original-host", "x-azure-clientip"}:
        return False
    address = ipaddress.ip_address(client)
    return address.is_loopback or address.is_private
