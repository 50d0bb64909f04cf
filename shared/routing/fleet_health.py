"""What the instances tell each other of deployments that fail, through the table `health`. Nobody waits for it.

Only hard trips are told: faults in a row, and refusals of the gateway's own access. One row per deployment, under its
backend's name; what stands there was decided by the instance that wrote last. It is read at most every 5 s, and only
by an instance that has calls to serve. With the table out of reach every instance goes by what it sees itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from shared.errors import StoreUnavailable
from shared.routing._health import FAULTS_TO_EJECT, HEALTHY, Health, after_success
from shared.routing.breakers import Breakers, DeploymentKey
from shared.storage import Properties, Row, Table

logger = logging.getLogger("tollgate.health")

TABLE = "health"
_PARTITION = "H"
_READ_EVERY = 5.0  # seconds
_PROBE_TAKES = 60.0  # seconds after which another instance may try, should the one that was to try have died
_TRIES = 4


class Shared(msgspec.Struct, frozen=True):
    """A row: times in seconds since 1970. `at`: when it was written, `by`: by which instance."""

    eject_until: float = 0.0
    ejections: int = 0
    probe_until: float = 0.0
    faults: int = 0
    reason: str = ""
    by: str = ""
    at: float = 0.0


def heard(mine: Health, mine_at: float, told: Shared, now: float, monotonic: float) -> Health:
    """What an instance makes of a row that another one wrote. `mine_at`: when it last decided by itself."""
    if told.at <= mine_at:
        return mine
    if told.eject_until <= now:
        recovered = told.faults == 0 and (mine.half_open or mine.ejected_until > monotonic)
        return after_success(mine) if recovered else mine
    until = monotonic + told.eject_until - now
    if until <= mine.ejected_until:
        return mine
    return msgspec.structs.replace(
        mine,
        faults=max(mine.faults, told.faults),
        ejections=max(mine.ejections, told.ejections),
        ejected_until=until,
        reason=f"{told.reason} (seen by {told.by})",
    )


class SharedHealth:
    """Tells and hears. One per process; `wall_clock` is the store's, which all instances share."""

    def __init__(
        self, table: Table, breakers: Breakers, wall_clock: Callable[[], float], rng: random.Random, instance: str
    ) -> None:
        self._table = table
        self._breakers = breakers
        self._wall_clock = wall_clock
        self._rng = rng
        self._instance = instance
        self._next_read = 0.0
        self._decided: dict[DeploymentKey, float] = {}  # when this instance last told something of a deployment itself
        self._tasks: set[asyncio.Task[None]] = set()
        breakers.fleet = self

    def look(self) -> None:
        """A call comes in: what the others say is read if that was long ago."""
        now = self._breakers.clock()
        if now >= self._next_read:
            self._next_read = now + _READ_EVERY
            self._in_background(self._read())

    def tripped(self, key: DeploymentKey, health: Health) -> None:
        now = self._wall_clock()
        self._decided[key] = now
        lasts = health.ejected_until - self._breakers.clock()
        # Text that came from a backend must fit into a row.
        reason = health.reason.encode("ascii", "replace").decode()[:200]
        told = Shared(
            now + lasts, health.ejections, 0.0, min(health.faults, FAULTS_TO_EJECT), reason, self._instance, now
        )
        self._in_background(
            self._write(key, lambda row: told if row is None or row.eject_until < now + lasts else None)
        )

    def recovered(self, key: DeploymentKey) -> None:
        now = self._wall_clock()
        self._decided[key] = now
        told = Shared(by=self._instance, at=now)
        self._in_background(self._write(key, lambda row: told if row is not None and row != told else None))

    def ask_for_probe(self, key: DeploymentKey) -> None:
        self._in_background(self._claim(key))

    async def rows(self) -> dict[DeploymentKey, Shared]:
        """What stands in the table. Raises `StoreUnavailable`."""
        return {_key(row): _shared(row) async for row in self._table.scan(_PARTITION)}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(self._unless_out_of_reach(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unless_out_of_reach(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except StoreUnavailable as error:
            logger.warning("the health of backends is this instance's own view for now: %s", error)

    async def _read(self) -> None:
        for key, told in (await self.rows()).items():
            now, monotonic = self._wall_clock(), self._breakers.clock()
            watched = self._breakers.all().get(key)
            mine = watched.health if watched is not None else HEALTHY
            if told.by == self._instance:
                continue
            if (health := heard(mine, self._decided.get(key, 0.0), told, now, monotonic)) is not mine:
                self._breakers.adopt(key, health)

    async def _claim(self, key: DeploymentKey) -> None:
        """Be the one who tries a deployment again, unless another instance is."""

        def claim(row: Shared | None) -> Shared | None:
            now = self._wall_clock()
            if row is not None and max(row.probe_until, row.eject_until) > now and row.by != self._instance:
                return None
            known = row or Shared(faults=FAULTS_TO_EJECT)
            return msgspec.structs.replace(known, probe_until=now + _PROBE_TAKES, by=self._instance, at=now)

        try:
            won = await self._write(key, claim)
        except StoreUnavailable:
            won = True  # nobody can be asked
        if won:
            self._breakers.grant_probe(key)

    async def _write(self, key: DeploymentKey, change: Callable[[Shared | None], Shared | None]) -> bool:
        """Write what `change` makes of the row, unless that is None. Whether it was written."""
        for attempt in range(_TRIES):
            row = await self._table.get(_PARTITION, _row_key(key))
            told = change(_shared(row) if row is not None else None)
            if told is None:
                return False
            properties: Properties = msgspec.structs.asdict(told) | {"w": f"{self._rng.getrandbits(64):x}"}
            if await self._table.put(_PARTITION, _row_key(key), properties, row.etag if row else None) is not None:
                return True
            await asyncio.sleep(self._rng.random() * 0.05 * 2**attempt)
        return False


def _row_key(key: DeploymentKey) -> str:
    return f"{key[0]}:{key[1]}"  # neither has a colon


def _key(row: Row) -> DeploymentKey:
    backend, _, deployment = row.key.partition(":")
    return backend, deployment


def _shared(row: Row) -> Shared:
    return msgspec.convert(row.properties, Shared, strict=False)
