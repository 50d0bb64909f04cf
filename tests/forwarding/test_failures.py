"""Exceptions of the transport, and the failures that they stand for."""

import asyncio

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from shared.forwarding._attempt import AttemptTimeout
from shared.forwarding._failures import AttemptFailed, Disconnected, Superseded, TimedOut, failure_of_transport

KEY = ConnectionKey("e", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("error", "status", "kind", "charged"),
    [
        (aiohttp.ConnectionTimeoutError(), 0, TimedOut, False),
        (TimeoutError(), 0, TimedOut, True),
        (TimeoutError(), 200, TimedOut, True),
        (TimeoutError(), 500, TimedOut, False),
        (aiohttp.ServerDisconnectedError(), 0, Disconnected, False),
        (ConnectionResetError("reset"), 0, AttemptFailed, False),
        (aiohttp.ClientOSError(104, "reset"), 0, Disconnected, False),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), 0, AttemptFailed, False),
        (aiohttp.ClientPayloadError(), 200, AttemptFailed, True),
        (ValueError("an invalid header"), 0, AttemptFailed, False),
    ],
)
async def test_only_attempts_that_timed_out_or_broke_off_inside_an_answer_are_charged(
    error: aiohttp.ClientError | OSError | ValueError, status: int, kind: type[AttemptFailed], charged: bool
) -> None:
    timeout = AttemptTimeout(10.0)
    timeout.written = True
    failed = failure_of_transport(error, status, timeout, 2.0)
    assert (type(failed), failed.charged) == (kind, charged)


async def test_an_attempt_whose_request_was_not_sent_is_not_charged() -> None:
    assert not failure_of_transport(TimeoutError(), 0, AttemptTimeout(10.0), 2.0).charged


@pytest.mark.parametrize("hung", [False, True])
async def test_an_attempt_that_is_ended_for_a_faster_one_is_superseded(hung: bool) -> None:
    timeout = AttemptTimeout(10.0, watched=True)
    with pytest.raises(TimeoutError) as ended:
        async with timeout.timer:
            timeout.supersede(hung=hung)
            await asyncio.sleep(10)
    failed = failure_of_transport(ended.value, 0, timeout, 2.0)
    assert isinstance(failed, Superseded)
    assert failed.hung == hung


async def test_a_time_limit_can_be_restarted_or_started_late() -> None:
    timeout = AttemptTimeout(0.0, watched=True)
    async with timeout.timer:
        await asyncio.sleep(0)  # nobody has started the timer
        timeout.restart(10.0)
        timeout.start()  # runs already
        await asyncio.sleep(0)
    late = AttemptTimeout(0.0, watched=True)
    with pytest.raises(TimeoutError):
        async with late.timer:
            late.start()
            await asyncio.sleep(10)
