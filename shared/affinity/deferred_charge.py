"""Leaves the usage of background responses, runs and batches to their settlement, once a call learns that it is
known."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from shared.affinity.recorder import ObjectRecorder
from shared.types import Reference, Usage


class Settlement(Protocol):
    """Settles work in the background."""

    def begin(self, partition: str, reference: Reference, usage: Usage | None) -> None:
        """Settle an object with this usage; None: its backend is to be asked. `partition`: its own in the index of
        pending work."""

    def relayed(self, reference: Reference, tokens: int, recorder: ObjectRecorder) -> None:
        """Note that a stream has relayed this much of an object's text, in case its usage is never reported."""


class DeferredCharge:
    """The share of one call. `recorder`: of the same call."""

    def __init__(self, recorder: ObjectRecorder, settlement: Settlement) -> None:
        self._recorder = recorder
        self._settlement = settlement
        self._claim: asyncio.Task[Usage] | None = None

    async def share(self, usage: Usage) -> Usage:
        """Return what the call itself pays of the usage that its answer reports: all if it made the object and that was
        complete at once, else nothing. Of an object of a version without the index, the first call pays all."""
        charged = self._recorder.charged
        if usage.estimated or charged is None or (usage == Usage() and not self._recorder.ended):
            return Usage()
        if self._recorder.finished:
            return usage
        self._claim = self._recorder.directory.claims.charge(self._claimed(usage, charged))
        return await asyncio.shield(self._claim)

    def relayed(self, tokens: int) -> None:
        """Note the tokens of the text that a stream has relayed without a usage, 0 when it begins."""
        if self._recorder.charged is not None:
            self._settlement.relayed(self._recorder.charged, tokens, self._recorder)

    def after_disconnect(self, account: Callable[[Usage], object]) -> None:
        """Pass what the call pays to `account` once that is certain: the claim under way, else nothing, since the usage
        is settled without this call."""
        if self._claim is None:
            account(Usage())
            return

        def claimed(task: asyncio.Task[Usage]) -> None:
            account(Usage() if task.cancelled() or task.exception() is not None else task.result())

        self._claim.add_done_callback(claimed)

    async def _claimed(self, usage: Usage, charged: Reference) -> Usage:
        directory = self._recorder.directory
        await self._recorder.kept()
        location = await directory.find(charged)
        if location is None or not self._recorder.is_own(location):  # an answer may name any object
            return Usage()
        if location.pending_in:
            self._settlement.begin(location.pending_in, charged, None if self._recorder.ended else usage)
            return Usage()
        return usage if await directory.claim_charge(charged) else Usage()
