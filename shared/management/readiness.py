"""Readiness of this process: `/readyz`. Liveness is `/healthz`, which has no dependencies.

Checks the table, and that every model has a backend that is neither ejected nor throttled; a served configuration is
always valid. All instances share such faults, so readiness is for the start of a pod, for deployments and for
monitors. Do not take running instances out of service by it: they go on serving while the table is out of reach.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping

import msgspec

from shared.concurrency import SingleFlight
from shared.errors import StoreUnavailable
from shared.storage import Store, names

_PATIENCE = 1.0  # seconds for the table
_HOLDS = 1.0  # seconds for which a result is served again


class Readiness(msgspec.Struct, frozen=True):
    """`store`: its problem, or "". `models`: those without a usable backend."""

    store: str
    models: list[str]

    @property
    def ready(self) -> bool:
        return not self.store and not self.models


class ReadinessCheck:
    """Asks the table at most once a second. `unusable` returns the models without a usable backend."""

    def __init__(self, store: Store, unusable: Callable[[], list[str]]) -> None:
        self._table = store.table(names.CONSUMERS)
        self._unusable = unusable
        self._asked_at = -_HOLDS
        self._problem = ""
        self._check: SingleFlight[str, None] = SingleFlight()

    async def __call__(self) -> Readiness:
        if time.monotonic() - self._asked_at >= _HOLDS:
            await self._check.run("", self._ask)
        return Readiness(self._problem, self._unusable())

    async def _ask(self) -> None:
        asked_at, problem = time.monotonic(), ""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._table.get("readyz", "readyz")
        except TimeoutError:
            problem = f"no answer within {_PATIENCE:g} s"
        except StoreUnavailable as error:
            problem = str(error)
        self._asked_at, self._problem = asked_at, problem


def is_internal(client: str, headers: Mapping[str, str]) -> bool:
    """True for a request from the same machine (a probe that runs in the container), unless something forwarded it.
    `client`: its address, or "" if unknown."""
    if not client or headers.keys() & {"x-forwarded-for", "forwarded", "x-original-host", "x-azure-clientip"}:
        return False
    return ipaddress.ip_address(client).is_loopback
