"""Asks backends for the usage of work that goes on after its call."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import aiohttp
import msgspec

from shared.affinity.pending import PendingWork
from shared.anthropic.batch_results import BatchResults, state_of
from shared.azure_openai import metering
from shared.azure_openai.references import KINDS
from shared.config.document import Backend
from shared.errors import StateUnavailable
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.response import OpenAnswer
from shared.http_client import read_some
from shared.settlement import schedule
from shared.types import Reference, Target, Usage

_ANSWER_WITHIN = 30.0  # seconds
_RESULTS_WITHIN = 120.0  # seconds, of a batch of messages, which may be gigabytes
_STEPS = "threads/{}/runs/{}/steps?limit=100&order=asc"


class Reported(NamedTuple):
    """The usage that a backend reports: one, or the separately priced parts of a batch. `objects`: those that the work
    has made."""

    usages: tuple[Usage, ...]
    objects: tuple[Reference, ...] = ()


class Unreported(NamedTuple):
    """The end of work whose usage no backend reports. `cancelled`: its backend says so; False: no backend knows it.
    `output`: tokens of the text that its object has; `share`: of a batch's requests that were completed."""

    cancelled: bool
    output: int = 0
    share: float = 1.0


LOST = Unreported(cancelled=False)


class WorkUsage:
    """Asks the backends of one configuration. `now` returns the seconds since 1970."""

    def __init__(self, backends: Iterable[Backend], forwarder: Forwarder, now: Callable[[], float]) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self._forwarder = forwarder
        self._now = now

    async def of(self, work: PendingWork) -> Reported | Unreported | None:
        """The usage by the work's backend; None if it is under way."""
        now, backend = self._now(), self._backends.get(work.backend)
        over = schedule.is_over(work.kind, work.started, now)
        if backend is None:
            if over:
                return LOST
            raise StateUnavailable(f"The backend {work.backend!r} is no longer in the gateway's configuration.")
        messages = work.kind == "message_batch"
        status, body, usage = await self._get(backend, work.kind, _path(work))
        if status == 404 and schedule.is_missing(work.started, now):
            return LOST
        if status != 200 or (not state_of(body).ended if messages else metering.is_under_way(body)):
            if over:
                return LOST
            if status not in (200, 404):
                raise StateUnavailable(f"The backend {work.backend!r} answers {status}.")
            return None
        if messages:
            return await self._of_results(backend, work, body, over=over)
        if usage == Usage() and (outcome := metering.status_of(body)) not in ("failed", "expired"):
            if not outcome:
                raise StateUnavailable(f"The backend {work.backend!r} answers without a status.")
            if outcome != "cancelled":
                return LOST
            return Unreported(True, metering.output_in(body), metering.completed_share(body))
        if work.kind == "run" and metering.tools_of_run(body) & {"code_interpreter", "file_search"}:
            usage = msgspec.structs.replace(usage, **await self._tools(backend, work))
        return Reported((usage,))

    async def _tools(self, backend: Backend, work: PendingWork) -> Mapping[str, int]:
        """The charged calls of tools in a run, from the first hundred of its steps."""
        status, body, _ = await self._get(backend, work.kind, _STEPS.format(work.parent, work.id))
        if status not in (200, 404):
            raise StateUnavailable(f"The backend {work.backend!r} answers {status} for steps.")
        return metering.tools_in_steps(body)

    async def _of_results(
        self, backend: Backend, work: PendingWork, batch: bytes, *, over: bool
    ) -> Reported | Unreported:
        """The usage of a batch of messages that has ended, from its results: all of them, or none is booked."""
        state, results = state_of(batch), BatchResults()
        if not state.succeeded:
            return Reported(results.usages())
        status = await self._read_results(backend, f"{_path(work)}/results", results)
        if status == 200 and results.lines >= state.requests:
            return Reported(results.usages(), tuple(results.objects))
        if over or state.archived_at is not None:
            return LOST
        raise StateUnavailable(f"The backend {work.backend!r} answers {status} with {results.lines} of the results.")

    async def _read_results(self, backend: Backend, path: str, results: BatchResults) -> int:
        """Read the results of a batch of messages; return the status of the answer."""
        try:
            async with asyncio.timeout(_RESULTS_WITHIN):
                answer = await self._forwarder.get(backend, "message_batch", path, "settlement")
                try:
                    if answer.status == 200:
                        results.feed(answer.head if isinstance(answer, OpenAnswer) else answer.body)
                        while isinstance(answer, OpenAnswer) and (chunk := await read_some(answer.content)):
                            results.feed(chunk)
                        results.finish()
                    return answer.status
                finally:
                    answer.close()
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError) as error:
            raise StateUnavailable(f"{type(error).__name__} from the backend {backend.name!r}: {error}") from None

    async def _get(self, backend: Backend, kind: str, path: str) -> tuple[int, bytes, Usage]:
        """The status, the body and the usage of an answer; of a body beyond 4 MiB only the usage, near its end."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                answer = await self._forwarder.get(backend, kind, path, "settlement")
                try:
                    if not isinstance(answer, OpenAnswer):
                        return answer.status, answer.body, answer.usage
                    while chunk := await read_some(answer.content):
                        answer.body.feed(chunk)
                    return answer.status, b"", answer.usage()
                finally:
                    answer.close()
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise StateUnavailable(f"{type(error).__name__} from the backend {backend.name!r}.") from None

    def target(self, work: PendingWork, usage: Usage) -> Target | None:
        """The deployment that did the work: only a run itself has it, and a batch may have several. None: its backend
        is gone."""
        backend = self._backends.get(work.backend)
        if backend is None:
            return None
        served = backend.by_deployment
        if work.kind == "message_batch" and (deployment := _served_by(usage.model, work.deployments)):
            return Target(backend, served.get(deployment, work.model), deployment)
        deployment = work.deployment or (usage.model if usage.model in served else "")
        model = work.model or served.get(deployment, "")
        return Target(backend, model, deployment)


def _path(work: PendingWork) -> str:
    return f"threads/{work.parent}/runs/{work.id}" if work.kind == "run" else KINDS[work.kind].path.format(work.id)


def _served_by(served: str, deployments: Iterable[str]) -> str:
    """The deployment of a batch that a message's model, which may have a date, belongs to; "": none."""
    fitting = (one for one in deployments if served.startswith(one.removesuffix("-latest")))
    return max(fitting, key=len, default="")
