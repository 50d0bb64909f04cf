"""`make attack-host`: attacks the Functions edge where an invocation and its request can miss each other (5 minutes).

Fails if an invocation is left, an honest call breaks, a bad one lasts longer than the pairing allows, or the memory of
the worker grows with its calls.
"""

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import psutil

from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import ROOT
from tests.harness.system import System, chat_body, configuration, simulated_regions, system

STREAMS, STREAM_TOKENS = 100, 1500  # of 15 s and more
BAD = 200
HANG_UPS = 1000
POSTS, AT_ONCE = 1000, 100
MARKS = (5.0, 60.0)  # seconds after which uvicorn closes an idle connection by default, and the host its own
CALLS, WARM = 20_000, 2_000
LONGEST = 12.0  # seconds of a bad call: ten, and what a busy machine adds
GROWTH = 8e6  # bytes of the worker over all calls; with Microsoft's pairing 38e6
_OWN_ID = b"x-ms-invocation-id: 0b5f9a52-2a4c-4f0e-9c6a-0d7ad0a8b3c1\r\n"
_BAD_HEADERS = (
    _OWN_ID,
    b"x-ms-invocation-id: mine\r\n",
    b"user-agent: Zo\xc3\xab\r\n",
    b"user-agent: a\x01b\r\n",
    b"connection: Upgrade\r\nupgrade: websocket\r\n",
)


class Ended(NamedTuple):
    """A call's end: its status, 0 without one; the seconds it took; and whether its answer came whole."""

    status: int
    seconds: float
    whole: bool


class Attack:
    """Calls of the functions edge on raw connections."""

    def __init__(self, running: System) -> None:
        self._running = running
        self._models = request("GET", "/v1/models", running.key)
        self._chat = request("POST", "/v1/chat/completions", running.key, chat_body("gpt-4o-mini"))
        self._stream = request("POST", "/v1/chat/completions", running.key, chat_body("gpt-4o-mini", stream=True))
        self._faults: list[str] = []

    async def call(self, data: bytes) -> Ended:
        started = time.monotonic()
        received = b""
        try:
            reader, writer = await asyncio.open_connection(*self._running.gateway.address)
            writer.write(data)
            received = await asyncio.wait_for(reader.read(), 120)
            writer.close()
        except OSError:
            pass
        head, _, body = received.partition(b"\r\n\r\n")
        status = int(head[9:12]) if head else 0
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        whole = len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n")
        return Ended(status, time.monotonic() - started, whole)

    async def bad_beside_streams(self) -> None:
        body = chat_body(self._running.slow(), f"simulate_output_tokens={STREAM_TOKENS}", stream=True)
        stream = request("POST", "/v1/chat/completions", self._running.key, body)
        streams = [asyncio.create_task(self.call(stream)) for _ in range(STREAMS)]
        await asyncio.sleep(3)
        bad = [self._chat.replace(b"host:", _BAD_HEADERS[n % len(_BAD_HEADERS)] + b"host:", 1) for n in range(BAD)]
        ends = await spread(self.call, bad, 5)
        whole = [end for end in await asyncio.gather(*streams) if end.status == 200 and end.whole]
        longest = max(end.seconds for end in ends)
        print(f"{BAD} bad calls: statuses {dict(Counter(end.status for end in ends))}, longest {longest:.2f} s")
        print(f"{STREAMS} streams beside them: {len(whole)} whole")
        self._expect(len(whole) == STREAMS, "a stream broke")
        self._expect(longest < LONGEST, "a bad call took too long")
        await self._nothing_is_left()

    async def hang_ups(self) -> None:
        async def leave(number: int) -> None:
            data = (self._models, self._chat, self._stream)[number % 3]
            _, writer = await asyncio.open_connection(*self._running.gateway.address)
            writer.write(data)
            await asyncio.sleep(random.uniform(0, 0.01))
            if number % 2:
                reset(writer)
            writer.close()

        honest = asyncio.gather(*(self._later(self._chat, n * 0.25) for n in range(40)))
        await spread(leave, range(HANG_UPS), 10)
        broken = [end for end in await honest if end.status != 200]
        print(f"{HANG_UPS} hang-ups within 10 ms; of 40 honest calls beside them {len(broken)} broke")
        self._expect(not broken, "an honest call broke beside hang-ups")
        await self._nothing_is_left()

    async def posts_around_the_marks(self) -> None:
        ends: list[Ended] = []
        for number, mark in enumerate([MARKS[0]] * (POSTS // AT_ONCE - 1) + [MARKS[1]]):
            if number:
                await asyncio.sleep(mark - 0.1)  # the connections of the last round are idle for as long as the mark
            ends += await spread(self.call, [self._chat] * AT_ONCE, 0.2)
        broken = [end for end in ends if end.status != 200]
        print(f"{len(ends)} POSTs on connections that were idle for {MARKS} s: {len(broken)} broke")
        self._expect(not broken, "a POST broke on an idle connection")
        await self._nothing_is_left()

    async def many_calls(self) -> None:
        process = psutil.Process(self._running.gateway.pid)

        async def calls(number: int) -> None:
            for _ in range(number):
                end = await self.call(self._models)
                self._expect(end.status == 200, f"status {end.status}")

        async def memory_after(number: int) -> int:
            await asyncio.gather(*(calls(number // 16) for _ in range(16)))
            await asyncio.sleep(2)
            return int(process.memory_info().rss)

        before = await memory_after(WARM)
        started = time.monotonic()
        after = await memory_after(CALLS)
        rate = CALLS / (time.monotonic() - started - 2)
        print(f"{CALLS} calls ({rate:.0f}/s): the worker's memory {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB")
        self._expect(after - before < GROWTH, "the worker's memory grows with its calls")
        await self._nothing_is_left()

    def finish(self) -> None:
        logs = self._running.gateway.logs()
        self._expect("the worker has died" not in logs, "the worker died")
        self._running.assert_no_defect()
        if self._faults:
            raise SystemExit("; ".join(dict.fromkeys(self._faults)))

    async def _later(self, data: bytes, seconds: float) -> Ended:
        await asyncio.sleep(seconds)
        return await self.call(data)

    async def _nothing_is_left(self) -> None:
        deadline = time.monotonic() + LONGEST
        while left := await asyncio.to_thread(self._running.running_invocations):
            if time.monotonic() > deadline:
                self._faults.append(f"{len(left)} invocations are left, as {left[0]}")
                return
            await asyncio.sleep(0.2)
        print("  no invocation is left")

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self._faults.append(fault)


def request(method: str, path: str, key: str, body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    length = f"content-length: {len(data)}\r\n" if data else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n{length}\r\n"
    return head.encode() + data


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def spread[A, R](act: Callable[[A], Awaitable[R]], items: Iterable[A], seconds: float) -> list[R]:
    """Act on every item, begun at random moments within these seconds."""

    async def one(item: A) -> R:
        await asyncio.sleep(random.uniform(0, seconds))
        return await act(item)

    return list(await asyncio.gather(*map(one, items)))


async def attack(running: System) -> None:
    attack = Attack(running)
    await attack.bad_beside_streams()
    await attack.hang_ups()
    await attack.posts_around_the_marks()
    await attack.many_calls()
    attack.finish()


def main() -> None:
    # The host takes a moment between an invocation and its request, in which a caller can leave.
    command = ["-m", "tests.harness.functions_host", str(ROOT), "--lag", "0.003"]
    with azurite() as tables, SimulatorProcess(simulated_regions()) as simulator:
        settings = configuration(simulator)
        with system("functions", settings, simulator, tables.connection_string, command=command) as running:
            asyncio.run(attack(running))


if __name__ == "__main__":
    main()
