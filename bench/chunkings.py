"""`make bench-chunkings`: compares event streams in random pieces byte for byte, and measures the delay of each piece.

The upstream is a socket of this process, so one clock measures when a piece is sent and received. The gateway passes
whole events: only a piece that ends one is measured, and every piece of a later event of more than 64 kB. Between the
rounds some streams bypass the gateway, which shows the delay of the machine. A watch on the gateway's event loop
measures its longest iterations in CPU time. Exits with 1 if a byte differs.
"""

import asyncio
import bisect
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench import usage_tables
from bench.children import start_tables
from bench.load import repeat
from local import azurite
from local.processes import Children, free_port
from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.config import environment
from shared.config.limits import Limits
from shared.edges.http_protocol import UVICORN_OPTIONS
from tests.harness.consumers import create_consumer

ROOT = Path(__file__).resolve().parent.parent
STREAMS, ROUNDS, AT_ONCE = 10_000, 10, 4
WATCH = "watch.json"
LONGEST_HELD = 0.02  # seconds
LONGEST_HELD_EVENT = 65_536  # bytes
SHORTEST_PAUSE, BYTES_PER_SECOND = 0.001, 4e6  # faster streams would measure a queue

_ALPHABET = 'abc 0123 äöü 東京 🚢 \\" \t'
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


class Case(msgspec.Struct, frozen=True):
    """A request, and the stream it gets: its pieces, and the pause before each."""

    path: str
    body: dict[str, Any]
    pieces: list[bytes]
    pauses: list[float]

    @property
    def whole(self) -> bytes:
        return b"".join(self.pieces)


class Passage(msgspec.Struct, frozen=True):
    """Result of one stream, and the delay of its pieces in seconds. `first`: up to the end of the first event, while
    another backend can still answer. `last`: the end, which the gateway sends once the usage is recorded."""

    same: bool
    first: list[float] = []
    between: list[float] = []
    last: list[float] = []


def make_case(number: int) -> Case:
    """A case, deterministic per number. Every hundredth has a line of one megabyte."""
    chance = random.Random(number)
    end = chance.choice(["\n", "\r\n", "\n", "\r"])
    chat = number % 2 == 0
    length = 1_000_000 if number % 100 == 0 else 200
    chunks = [_chunk(chance, chat, length) for _ in range(chance.randint(1, 12))]
    events = [f"data: {json.dumps(chunk, ensure_ascii=False)}" for chunk in chunks]
    if chat:
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        events += [f"data: {json.dumps({'id': 'a', 'choices': [], 'usage': usage})}", "data: [DONE]"]
    else:
        usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
        done = {"type": "response.completed", "response": {"id": f"resp_{number}", "usage": usage}}
        events = [f"event: response.output_text.delta{end}{event}" for event in events]
        events.append(f"event: response.completed{end}data: {json.dumps(done)}")
    text = "".join(event + 2 * end + (f": note{2 * end}" if chance.random() < 0.1 else "") for event in events[:-1])
    whole = (text + events[-1] + 2 * end).encode()
    pieces = _cut(whole, chance)
    pauses = [
        SHORTEST_PAUSE + len(piece) / BYTES_PER_SECOND + 0.003 * max(0, chance.random() - 0.8) for piece in pieces
    ]
    prompt = f"case {number}"
    if chat:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": "m", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        return Case("chat/completions", body, pieces, pauses)
    return Case("responses", {"model": "m", "input": prompt, "stream": True, "store": False}, pieces, pauses)


def _chunk(chance: random.Random, chat: bool, length: int) -> dict[str, Any]:
    text = "".join(chance.choices(_ALPHABET, k=chance.randint(1, 40))) * (length // 40 if length > 1_000 else 1)
    if chat:
        return {"id": "a", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    return {"type": "response.output_text.delta", "delta": text}


def _cut(whole: bytes, chance: random.Random) -> list[bytes]:
    few = [8] + [40] * 3 + [400] * 4 + [4_000] * 4  # rarely, since pieces of a few bytes make hundreds per stream
    largest = chance.choice(few) if len(whole) < 20_000 else 100_000
    pieces, place = [], 0
    while place < len(whole):
        size = chance.randint(1, largest)
        pieces.append(whole[place : place + size])
        place += size
    return pieces


class Upstream:
    """Answers a call that contains `case N` with that stream, and records when each piece was sent."""

    def __init__(self) -> None:
        self.left: dict[int, list[float]] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _read_head(reader):
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                case = re.search(rb"case (\d+)", await reader.readexactly(int(length[1]) if length else 0))
                if case is None:
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                await self._stream(int(case[1]), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _stream(self, number: int, writer: asyncio.StreamWriter) -> None:
        case = make_case(number)
        left = self.left[number] = []
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(head)
        for piece, pause in zip(case.pieces, case.pauses, strict=True):
            await asyncio.sleep(pause)
            left.append(time.perf_counter())
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[Upstream, str]]:
    """A running upstream and its URL."""
    running = Upstream()
    server = await asyncio.start_server(running.handle, "127.0.0.1", 0)
    try:
        yield running, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        server.abort_clients()  # a gateway keeps its connections


async def pass_through(url: str, headers: dict[str, str], running: Upstream, numbers: range) -> list[Passage]:
    """Send the cases to `url`, a few concurrently."""
    passages: list[Passage] = []
    left = iter(numbers)
    # One connection per call: the server may close an idle connection just as it is reused.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as session:

        async def call() -> None:
            number = next(left)
            case = make_case(number)
            received, arrived = b"", list[tuple[float, int]]()
            async with session.post(f"{url}/{case.path}", json=case.body, headers=headers) as answer:
                async for piece in answer.content.iter_any():
                    received += piece
                    arrived.append((time.perf_counter(), len(received)))
            passages.append(_judge(case, running.left.pop(number, []), received, arrived))

        await repeat(len(numbers), AT_ONCE, call)
    return passages


def _judge(case: Case, left: list[float], received: bytes, arrived: list[tuple[float, int]]) -> Passage:
    whole = case.whole
    if received != whole:
        return Passage(False)
    passage = Passage(True, [], [], [])
    begins = _EVENT_END.search(whole)
    committed = begins.end() if begins else len(whole)
    end = max(whole.rfind(b"event: response.completed"), whole.rfind(b"data: [DONE]"))
    places, offset, passed = iter(arrived), 0, 0
    moment, reached = next(places)
    ends = [match.end() for match in _EVENT_END.finditer(whole)]
    for gone, piece in zip(left, case.pieces, strict=True):
        offset += len(piece)
        due = _due(ends, offset)
        if due == passed or due < committed:  # another backend may still answer until the first event is whole
            continue
        passed = due
        while reached < due:
            moment, reached = next(places)
        waits = passage.last if due > end else passage.first if due <= committed else passage.between
        waits.append(moment - gone)
    return passage


def _due(ends: list[int], offset: int) -> int:
    """The bytes that should have passed once `offset` bytes are sent: all whole events, and all of a long event."""
    begun = ends[place - 1] if (place := bisect.bisect_right(ends, offset)) else 0
    return offset if offset - begun > LONGEST_HELD_EVENT else begun


def show(route: str, passages: list[Passage]) -> bool:
    """Print the figures. Returns True if every stream is unchanged."""
    different = sum(not passage.same for passage in passages)
    print(f"{route}: {len(passages)} streams, {different} of them changed")
    for name, waits in (
        ("first event", [wait for passage in passages for wait in passage.first]),
        ("later events", [wait for passage in passages for wait in passage.between]),
        ("end, after the usage is recorded", [wait for passage in passages for wait in passage.last]),
    ):
        if waits:
            over = sum(wait > LONGEST_HELD for wait in waits)
            late = statistics.quantiles(waits, n=1_000)[998]
            middle, longest = statistics.median(waits) * 1e3, max(waits) * 1e3
            print(
                f"  {name:38} {len(waits):8}   median {middle:.2f} ms   99.9 % {late * 1e3:.1f} ms"
                f"   longest {longest:.1f} ms   over {LONGEST_HELD * 1e3:.0f} ms: {over}"
            )
    return different == 0


async def _measure(children: Children, count: int) -> bool:
    async with upstream() as (running, url):
        ports = start_tables(children)
        backend = {
            "name": "one",
            "endpoint": url,
            "region": "one",
            "models": {"m": "m"},
            "auth": {"api_key_env": "KEY"},
        }
        environ = {
            **os.environ,
            "KEY": "secret",
            "GATEWAY_CONFIG": json.dumps({"backends": [backend]}),
            "GATEWAY_STORAGE": azurite.connection_string(ports),
            "BENCH_WATCH": str(children.logs / WATCH),
        }
        async with bootstrap.open_store(environment.load_storage(environ)) as store:
            _, key = await create_consumer(Consumers(store), "bench", models=None, limits=Limits())
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "bench.ledger_app:app", "--port", str(port), *UVICORN_OPTIONS]
        gateway = children.start("gateway", command, environ)
        await asyncio.to_thread(children.wait_for_port, "The gateway", port, 20)
        through, headers = f"http://127.0.0.1:{port}/v1", {"authorization": f"Bearer {key}"}
        await pass_through(through, headers, running, range(20))  # warm
        alone: list[Passage] = []
        seen: list[Passage] = []
        for start in range(0, count, count // ROUNDS):
            numbers = range(start, min(start + count // ROUNDS, count))
            alone += await pass_through(url, {}, running, numbers[::5])
            # Azurite slows down with many rows.
            await asyncio.to_thread(usage_tables.drop, environ["GATEWAY_STORAGE"])
            seen += await pass_through(through, headers, running, numbers)
            print(f"{len(seen)} streams", file=sys.stderr, flush=True)
        same = show("without the gateway", alone) and show("through the gateway", seen)
        await asyncio.to_thread(gateway.stop, 20)
        return same


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS
    with tempfile.TemporaryDirectory() as logs, Children(ROOT, Path(logs)) as children:
        same = asyncio.run(_measure(children, count))
        watch = json.loads((Path(logs) / WATCH).read_text())
        print(
            f"the longest iterations of the gateway's event loop: CPU {watch['cpu']} ms, wall time {watch['wall']} ms"
        )
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
