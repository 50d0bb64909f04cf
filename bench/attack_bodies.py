"""Bodies that cost far more than they weigh, each sent as one request; and what the gateway pays for it.

Used by `make attack`, and by the tests that are quick.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.harness.gateway_process import request
from tests.harness.system import System

MB = 1_000_000
LARGEST = 32 * 1024 * 1024 - 100  # bytes; the default of `max_request_bytes`
FLOOR = 32 * MB  # bytes of memory that a request may take whatever its size
_FORM = b"multipart/form-data; boundary=b"
_JSON = b"application/json"


class Body(NamedTuple):
    """A body, by path and content-type; `statuses` that answer it: 200, if only its cost is an attack. `data` makes it:
    all at once would fill memory."""

    path: str
    data: Callable[[], bytes]
    content_type: bytes = _JSON
    statuses: tuple[int, ...] = (400, 413)


def _chat(inner: bytes, unit: bytes, size: int) -> bytes:
    return b'{"model":"gpt-4o-mini","messages":[' + inner + unit * (size // len(unit)) + b"0]}"


def _parts(size: int) -> bytes:
    unit = b"--b\r\n\r\n\r\n"
    return unit * (size // len(unit)) + b"--b--\r\n"


def _batch(line: bytes, size: int) -> bytes:
    purpose = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return purpose + head + line * (size // len(line)) + b"\r\n--b--\r\n"


_CHAT = "/v1/chat/completions"
_EMOJI = "\N{GRINNING FACE}".encode()

BODIES: dict[str, Body] = {
    "one key of 32 MB": Body(_CHAT, lambda: b'{"' + b"k" * (LARGEST - 6) + b'":1}'),
    "one key of escapes": Body(_CHAT, lambda: b'{"' + b"\\n" * (LARGEST // 2 - 6) + b'":1}'),
    "10 million empty objects": Body(_CHAT, lambda: _chat(b"", b"{},", LARGEST - 60)),
    "empty objects at the top": Body(_CHAT, lambda: b"{" + b'"k":{},' * (LARGEST // 7 - 2) + b'"k":1}'),
    "8 MB of empty lists and an id": Body(
        "/v1/responses", lambda: _chat(b'{"file_id":"file-abcdef"},', b"[],", 8 * MB)
    ),
    "numbers": Body(_CHAT, lambda: _chat(b"", b"999,", LARGEST - 60)),
    "depth": Body(_CHAT, lambda: b'{"a":' + b"[" * (LARGEST - 10)),
    "options of many nodes": Body(
        _CHAT, lambda: b'{"model":"gpt-4o-mini","stream":true,"stream_options":{"a":[' + b"{}," * MB + b"0]}}"
    ),
    "a model's name of 32 MB": Body(_CHAT, lambda: b'{"model":"' + b"x" * (LARGEST - 20) + b'"}'),
    "text and an emoji": Body(
        _CHAT,
        lambda: b'{"model":"no-such-model","messages":[{"file_id":"file-a","content":"'
        + _EMOJI + b"x" * (LARGEST - 90) + b'"}]}',
        statuses=(400, 404),
    ),
    "short texts and an emoji": Body(
        _CHAT,
        lambda: b'{"model":"no-such-model","messages":["' + _EMOJI + (b'","' + b"x" * 250) * 125_000 + b'"]}',
        statuses=(400, 404),
    ),
    "an offer of 9-byte parts": Body("/v1/realtime/calls", lambda: _parts(LARGEST), _FORM),
    "a small offer of 9-byte parts": Body("/v1/realtime/calls", lambda: _parts(MB), _FORM),
    "an upload of 9-byte parts": Body("/v1/audio/transcriptions", lambda: _parts(LARGEST), _FORM),
    "a model behind 65 MB": Body(
        "/v1/audio/transcriptions",
        lambda: b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + b"x" * (70 * MB)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n',
        _FORM,
    ),
    "a batch of empty lines": Body("/v1/files", lambda: _batch(b"\n", LARGEST - 300), _FORM, (200,)),
    "a batch of 100,000 requests": Body(
        "/v1/files",
        lambda: _batch(b'{"url":"/v1/embeddings","body":{"model":"m","input":"hi"}}\n', 5_800_000),
        _FORM,
        (200,),
    ),
    "a batch of lines of many objects": Body(
        "/v1/files",
        lambda: _batch(
            b'{"url":"/v1/chat/completions","body":{"file_id":0,"messages":[' + b"{}," * 80_000 + b"0]}}\n", 4 * MB
        ),
        _FORM,
        (200,),
    ),
}  # fmt: skip


class Cost(NamedTuple):
    """The price of one request: its status (0: cut off) and its seconds, the seconds of the longest call beside it, the
    peak of the process's memory above the start in bytes, and the body's size."""

    status: int
    seconds: float
    silence: float
    peak: int
    size: int

    @property
    def bounded(self) -> bool:
        return self.peak <= max(FLOOR, 4 * self.size)


def send(system: System, body: Body) -> Cost:
    """Send a body, and return its cost."""
    data = body.data()
    with watched_memory(system.gateway.pid) as peak, watched_loop(system) as silences:
        started = time.monotonic()
        status = _status(system, body, data)
        seconds = time.monotonic() - started
    return Cost(status, seconds, max(silences), peak[0], len(data))


def _status(system: System, body: Body, data: bytes) -> int:
    head = (
        f"POST {body.path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {system.key}\r\nconnection: close\r\n"
        f"content-type: {body.content_type.decode()}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(system.gateway.address, 60) as caller:
        received = b""
        with contextlib.suppress(ConnectionError):
            caller.sendall(head.encode())
            caller.sendall(data)
        with contextlib.suppress(ConnectionError):
            received = caller.recv(65_536)
    return int(received[9:12]) if received else 0


@contextlib.contextmanager
def watched_memory(pid: int) -> Iterator[list[int]]:
    """The peak of a process's memory above its present size, in bytes, once the block has ended."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins again
    before, peak = _high_water_mark(pid), [0]
    yield peak
    peak[0] = _high_water_mark(pid) - before


def _high_water_mark(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextlib.contextmanager
def watched_loop(system: System) -> Iterator[list[float]]:
    """The seconds that each of many small calls takes beside the block."""
    over, silences = threading.Event(), [0.0]

    def probe() -> None:
        while not over.is_set():
            started = time.monotonic()
            with contextlib.suppress(OSError):
                request(system.gateway.address, "GET", "/healthz", None, {}, 60)
            silences.append(time.monotonic() - started)
            time.sleep(0.005)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield silences
    finally:
        over.set()
        thread.join()
