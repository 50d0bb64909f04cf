"""Leaves the usage of background responses, runs and batches to their settlement, once a call learns that it is
known."""

import asyncio
from collections.abc import Callable

from shared.affinity.recorder import ObjectRecorder
from shared.types import Reference, Usage

Settle = Callable[[str, Reference, Usage], object]
"""Settles an object in the background. Takes its partition in the index of pending work, and its usage."""


class DeferredCharge:
    """The share of one call. `recorder`: of the same call."""

    def __init__(self, recorder: ObjectRecorder, settle: Settle) -> None:
        self._recorder = recorder
        self._settle = settle
        self._claim: asyncio.Task[Usage] | None = None

    async def share(self, usage: Usage) -> Usage:
        """Return what the call itself pays of the usage that its answer reports: all if it made the object and that was
        complete at once, else nothing. Of an object of a version without the index, the first call pays all."""
        charged = self._recorder.charged
        if usage.estimated or usage == Usage() or charged is None:
            return Usage()
        if self._recorder.finished:
            return usage
        # It bars all other calls, so it goes on when the caller leaves now.
        self._claim = asyncio.ensure_future(self._claimed(usage, charged))
        self._recorder.directory.claims.finish_before_closing(self._claim)
        return await asyncio.shield(self._claim)

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
            self._settle(location.pending_in, charged, usage)
            return Usage()
        return usage if await directory.claim_charge(charged) else Usage()
