"""Charges the usage of background responses, runs and batches to the first call that receives it."""

import asyncio
from collections.abc import Callable

from shared.affinity.recorder import ObjectRecorder
from shared.types import Reference, Usage


class DeferredCharge:
    """The share of one call. `recorder`: of the same call."""

    def __init__(self, recorder: ObjectRecorder) -> None:
        self._recorder = recorder
        self._claim: asyncio.Task[Usage] | None = None

    async def share(self, usage: Usage) -> Usage:
        """Return what the call pays of the usage that its answer reports: all or nothing."""
        charged = self._recorder.charged
        if usage.estimated or usage == Usage() or charged is None:
            return Usage()
        # A claim bars all other calls, so it goes on when the caller leaves now.
        self._claim = asyncio.ensure_future(self._claimed(usage, charged))
        return await asyncio.shield(self._claim)

    def after_disconnect(self, account: Callable[[Usage], object]) -> None:
        """Pass what the call pays to `account` once that is certain: the claim under way, else nothing, since another
        call will receive the usage."""
        if self._claim is None:
            account(Usage())
            return

        def claimed(task: asyncio.Task[Usage]) -> None:
            account(Usage() if task.cancelled() or task.exception() is not None else task.result())

        self._claim.add_done_callback(claimed)

    async def _claimed(self, usage: Usage, charged: Reference) -> Usage:
        recorder = self._recorder
        await recorder.kept()
        return usage if recorder.finished or await recorder.directory.claim_charge(charged) else Usage()
