"""Opens the WebSocket of a connection on the first of its targets that accepts it. From then on it stays there."""

import logging
from typing import NamedTuple

import msgspec

from shared.azure_openai.sockets import REALTIME
from shared.errors import GatewayError, NotSupported, UpgradeRequired
from shared.forwarding._attempt_log import AttemptLog
from shared.forwarding._candidates import Candidates
from shared.forwarding._failures import AttemptFailed, NoWebSockets, Throttled
from shared.forwarding.backend_client import BackendSocket
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.forwarding.forwarder import Forwarder
from shared.types import Attempt, Call, Plan, Target

logger = logging.getLogger("tollgate.forwarding")


class Connected(NamedTuple):
    """An open WebSocket on a target. `attempts`: those that were made for it, the last of which succeeded."""

    socket: BackendSocket
    target: Target
    attempts: tuple[Attempt, ...]


async def connect(forwarder: Forwarder, call: Call, plan: Plan, request_id: str) -> Connected:
    """Open a connection on one of its plan's targets. No fallback model takes it: all of a connection's responses would
    be that model's. Raises `ForwardingFailed`."""
    breakers = forwarder.breakers
    forwarder.budget.called()
    breakers.look()
    served = [target for target in plan.targets if target.model in (plan.model, plan.canary)]
    candidates = Candidates(msgspec.structs.replace(plan, targets=served), forwarder.router, breakers, 0.0)
    log = AttemptLog(breakers.clock)
    without = False
    while candidates.left:
        target = candidates.left.pop(0)
        if not candidates.may_try(target):
            continue
        if not candidates.failed.retry_is_free and not forwarder.budget.take():
            logger.warning("%s: not retried: retry budget exhausted", request_id)
            break
        started = breakers.clock()
        try:
            socket = await forwarder.client.connect(call, target, request_id)
        except AttemptFailed as failed:
            candidates.throttled = candidates.throttled or isinstance(failed, Throttled)
            without = without or isinstance(failed, NoWebSockets)
            candidates.failed.add(target, failed)
            log.add(target, failed.status, failed.problem, started, "try")
            logger.info("%s: no connection to %s: %s", request_id, target.backend.name, failed.problem)
            continue
        log.add(target, 101, "", started, "try")
        return Connected(socket, target, log.all())
    if candidates.throttled:
        waits = candidates.failed.waits()
        raise ForwardingFailed(forwarder.router.throttled(served, waits, 0.0), log.all())
    if without:
        error = NotSupported if call.operation is REALTIME else UpgradeRequired
        raise ForwardingFailed(error(_WITHOUT), log.all())
    outcome = candidates.failed.outcome(request_id)
    assert isinstance(outcome, GatewayError)  # no handshake shows an answer
    raise ForwardingFailed(outcome, log.all())


_WITHOUT = (
    "The backends of this model accept no WebSocket on this path. Use HTTP, with event streams for responses, or ask "
    "the gateway's operator for a model that has one."
)
