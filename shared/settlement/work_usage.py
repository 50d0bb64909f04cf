"""Asks backends for the usage of work that goes on after its call."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import aiohttp
import msgspec

from shared.affinity.pending import PendingWork
from shared.azure_openai import metering
from shared.azure_openai.references import KINDS
from shared.config.document import Backend
from shared.errors import StateUnavailable
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.response import OpenAnswer
from shared.settlement import schedule
from shared.types import Target, Usage

_ANSWER_WITHIN = 30.0  # seconds
_STEPS = "threads/{}/runs/{}/steps?limit=100&order=asc"


class Unreported(NamedTuple):
    """The end of work whose usage no backend tells. `cancelled`: its backend says so; False: nobody knows it any more.
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

    async def of(self, work: PendingWork) -> Usage | Unreported | None:
        """The usage by the work's backend; None if it is under way."""
        now, backend = self._now(), self._backends.get(work.backend)
        over = schedule.is_over(work.kind, work.started, now)
        if backend is None:
            if over:
                return LOST
            raise StateUnavailable(f"The backend {work.backend!r} is no longer in the gateway's configuration.")
        status, body, usage = await self._get(backend, _path(work))
        if status == 404 and schedule.is_missing(work.started, now):
            return LOST
        if status != 200 or metering.is_under_way(body):
            if over:
                return LOST
            if status not in (200, 404):
                raise StateUnavailable(f"The backend {work.backend!r} answers {status}.")
            return None
        if usage == Usage() and (outcome := metering.status_of(body)) not in ("failed", "expired"):
            if not outcome:
                raise StateUnavailable(f"The backend {work.backend!r} answers without a status.")
            if outcome != "cancelled":
                return LOST
            return Unreported(True, metering.output_in(body), metering.completed_share(body))
        if work.kind == "run" and metering.tools_of_run(body) & {"code_interpreter", "file_search"}:
            return msgspec.structs.replace(usage, **await self._tools(backend, work))
        return usage

    async def _tools(self, backend: Backend, work: PendingWork) -> Mapping[str, int]:
        """The charged calls of tools in a run, from the first hundred of its steps."""
        status, body, _ = await self._get(backend, _STEPS.format(work.parent, work.id))
        if status not in (200, 404):
            raise StateUnavailable(f"The backend {work.backend!r} answers {status} for steps.")
        return metering.tools_in_steps(body)

    async def _get(self, backend: Backend, path: str) -> tuple[int, bytes, Usage]:
        """The status, the body and the usage of an answer; of a body beyond 4 MiB only the usage, near its end."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                answer = await self._forwarder.get(backend, path, "settlement")
                try:
                    if not isinstance(answer, OpenAnswer):
                        return answer.status, answer.body, answer.usage
                    while chunk := await answer.content.readany():
                        answer.body.feed(chunk)
                    return answer.status, b"", answer.usage()
                finally:
                    answer.close()
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise StateUnavailable(f"{type(error).__name__} from the backend {backend.name!r}.") from None

    def target(self, work: PendingWork, usage: Usage) -> Target | None:
        """The deployment that did the work: a run is the first to tell its own. None: its backend is gone."""
        backend = self._backends.get(work.backend)
        if backend is None:
            return None
        deployment = work.deployment or (usage.model if usage.model in backend.deployments.values() else "")
        model = work.model or next((name for name, one in backend.deployments.items() if one == deployment), "")
        return Target(backend, model, deployment)


def _path(work: PendingWork) -> str:
    return f"threads/{work.parent}/runs/{work.id}" if work.kind == "run" else KINDS[work.kind].path.format(work.id)
