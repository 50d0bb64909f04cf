"""Shares circuit-breaker state between instances through the table `health`, off the request path.

Only hard trips are shared: faults in a row, and rejections of the gateway's own access. There is one row per
deployment, decided by the instance that wrote last. Rows are read every 5 s at most, and only by an instance with calls
to serve. With the table out of reach every instance uses its own view.
"""

import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from shared.concurrency import Tasks
from shared.errors import StoreUnavailable
from shared.routing._health import FAULTS_TO_EJECT, HEALTHY, Health, after_success
from shared.routing.breakers import Breakers
from shared.routing.deployments import DeploymentKey
from shared.storage import Row, Table, conditional

logger = logging.getLogger("tollgate.health")

_PARTITION = "H"
_READ_EVERY = 5.0  # seconds
_PROBE_TAKES = 60.0  # seconds after which another instance may try, in case the one that was to try has died


class Shared(msgspec.Struct, frozen=True):
    """A row. Times in seconds since 1970; `at`: when it was written, `by`: by which instance."""

    eject_until: float = 0.0
    ejections: int = 0
    probe_until: float = 0.0
    faults: int = 0
    reason: str = ""
    by: str = ""
    at: float = 0.0


def merged(mine: Health, mine_at: float, row: Shared, now: float, monotonic: float) -> Health:
    """This instance's health of a deployment, given the row of another one. `mine_at`: when this one decided last."""
    if row.at <= mine_at:
        return mine
    if row.eject_until <= now:
        recovered = row.faults == 0 and (mine.half_open or mine.ejected_until > monotonic)
        return after_success(mine) if recovered else mine
    until = monotonic + row.eject_until - now
    if until <= mine.ejected_until:
        return mine
    return msgspec.structs.replace(
        mine,
        faults=max(mine.faults, row.faults),
        ejections=max(mine.ejections, row.ejections),
        ejected_until=until,
        reason=f"{row.reason} (seen by {row.by})",
    )


class SharedHealth:
    """One per process; `wall_clock` is the store's, which all instances share."""

    def __init__(self, table: Table, wall_clock: Callable[[], float], rng: random.Random, instance: str) -> None:
        self._table = table
        self._wall_clock = wall_clock
        self._rng = rng
        self._instance = instance
        self._next_read = 0.0
        self._decided: dict[DeploymentKey, float] = {}  # when this instance last reported on a deployment
        self._tasks = Tasks(shared=True)

    def look(self, breakers: Breakers) -> None:
        """Read the rows in the background, if the last reading was long ago."""
        now = breakers.clock()
        if now >= self._next_read:
            self._next_read = now + _READ_EVERY
            self._in_background(self._read(breakers))

    def tripped(self, key: DeploymentKey, health: Health, seconds: float) -> None:
        """Report an ejection that lasts so many seconds, unless the row has a longer one."""
        now = self._wall_clock()
        self._decided[key] = now
        # Text from a backend must fit into a row.
        reason = health.reason.encode("ascii", "replace").decode()[:200]
        faults = min(health.faults, FAULTS_TO_EJECT)
        mine = Shared(now + seconds, health.ejections, 0.0, faults, reason, self._instance, now)

        def lengthen(row: Shared | None) -> Shared | None:
            return mine if row is None or row.eject_until < mine.eject_until else None

        self._in_background(self._update(key, lengthen))

    def recovered(self, key: DeploymentKey) -> None:
        now = self._wall_clock()
        self._decided[key] = now
        mine = Shared(by=self._instance, at=now)
        self._in_background(self._update(key, lambda row: mine if row is not None and row != mine else None))

    def ask_for_probe(self, key: DeploymentKey, granted: Callable[[], None]) -> None:
        self._in_background(self._claim_probe(key, granted))

    async def rows(self) -> dict[DeploymentKey, Shared]:
        """All rows of the table. Raises `StoreUnavailable`."""
        return {_key(row): _shared(row) async for row in self._table.scan(_PARTITION)}

    async def close(self) -> None:
        await self._tasks.close()

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        self._tasks.start(self._unless_out_of_reach(work))

    async def _unless_out_of_reach(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except StoreUnavailable as error:
            logger.warning("cannot share the health of backends, so this instance uses its own view: %s", error)

    async def _read(self, breakers: Breakers) -> None:
        for key, row in (await self.rows()).items():
            now, monotonic = self._wall_clock(), breakers.clock()
            if row.by == self._instance:
                continue
            watched = breakers.all().get(key)
            mine = watched.health if watched is not None else HEALTHY
            if (health := merged(mine, self._decided.get(key, 0.0), row, now, monotonic)) is not mine:
                breakers.adopt(key, health)

    async def _claim_probe(self, key: DeploymentKey, granted: Callable[[], None]) -> None:
        def claim(row: Shared | None) -> Shared | None:
            now = self._wall_clock()
            if row is not None and max(row.probe_until, row.eject_until) > now and row.by != self._instance:
                return None
            known = row or Shared(faults=FAULTS_TO_EJECT)
            return msgspec.structs.replace(known, probe_until=now + _PROBE_TAKES, by=self._instance, at=now)

        try:
            won = await self._update(key, claim)
        except StoreUnavailable:
            won = True  # the others cannot be asked
        if won:
            granted()

    async def _update(self, key: DeploymentKey, change: Callable[[Shared | None], Shared | None]) -> bool:
        """Write what `change` makes of the row. Return False if it returned None."""

        def properties(row: Row | None) -> dict[str, Any] | None:
            changed = change(_shared(row) if row is not None else None)
            # `w` makes every write differ from the last, so that its ETag is new.
            return (
                None if changed is None else msgspec.structs.asdict(changed) | {"w": f"{self._rng.getrandbits(64):x}"}
            )

        return await conditional.update(self._table, _PARTITION, f"{key[0]}:{key[1]}", properties) is not None


def _key(row: Row) -> DeploymentKey:
    backend, _, deployment = row.key.partition(":")  # no backend has one in its name
    return backend, deployment


def _shared(row: Row) -> Shared:
    return msgspec.convert(row.properties, Shared, strict=False)
