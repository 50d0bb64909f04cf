"""Admits a call at all of its limits, or at none."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

import msgspec

from shared.limits import _headers
from shared.limits._amounts import NOTHING, Amounts
from shared.limits._exchange import Denied
from shared.limits._lease import LeasedLimit

logger = logging.getLogger("tollgate.limits")


class JointAdmission:
    """By one configuration, whose `contact` the messages of denials name. `hits` counts the denials of a process, by
    kind of scope and dimension."""

    def __init__(self, contact: str, hits: Counter[tuple[str, str]]) -> None:
        self._contact = contact
        self._hits = hits

    async def admit(self, limits: Sequence[LeasedLimit], costs: Sequence[Amounts], now: float) -> None:
        """Admit costs at their limits. Nothing is awaited if the leases at hand cover them. Raises `RateLimitExceeded`,
        `QuotaExceeded`, `BudgetExceeded` and `StoreUnavailable`; nothing stays reserved then."""
        for i, (limit, cost) in enumerate(zip(limits, costs, strict=True)):
            if not limit.spend(cost, now):
                await self.wait(limits, costs, i, now)
                break

    async def wait(self, limits: Sequence[LeasedLimit], costs: Sequence[Amounts], spent: int, now: float) -> None:
        """Admit a call at all limits at once, from the one at `spent` on, whose lease does not cover it."""
        admitted, waiting = list(range(spent)), [spent]
        for i in range(spent + 1, len(limits)):
            (admitted if limits[i].spend(costs[i], now) else waiting).append(i)

        async def admit(i: int) -> Exception | None:
            try:
                await self._admit(limits[i], costs[i], now)
            except Exception as error:
                return error
            admitted.append(i)
            return None

        errors: list[Exception] = []
        try:
            # A single one needs no task.
            ends = [await admit(spent)] if len(waiting) == 1 else await asyncio.gather(*map(admit, waiting))
            errors = [error for error in ends if error is not None]
            if denials := [error for error in errors if isinstance(error, Denied)]:
                worst = max(denials, key=lambda denied: (denied.denial.kind == "quota", denied.denial.wait))
                raise _headers.error(worst, limits, now, self._contact)
            if errors:
                raise errors[0]
        except BaseException:
            for i in admitted:
                limits[i].settle(costs[i], NOTHING)
            raise

    async def _admit(self, limit: LeasedLimit, cost: Amounts, now: float) -> None:
        try:
            await limit.admit(cost, now)
        except Denied as denied:
            soft = limit.scope.limits.soft or False
            self._report(denied, soft)
            if not soft:
                raise
            limit.overdraw(cost)

    def _report(self, denied: Denied, soft: bool) -> None:
        scope, denial = denied.scope, denied.denial
        self._hits[scope.kind, denial.dimension] += 1
        line = {
            "event": "soft_limit_exceeded" if soft else "limit_exceeded",
            "scope": scope.logged,
            "limit": denial.dimension,
            "kind": denial.kind,
            "wait": round(denial.wait, 3),
        }
        logger.info(msgspec.json.encode(line).decode())
