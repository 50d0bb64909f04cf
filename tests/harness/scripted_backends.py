"""Backends on 127.0.0.1 whose answers a test scripts byte by byte, and the forwarding that calls them: the real client,
breakers, router and forwarder, without the parts of the gateway above them."""

import asyncio
import contextlib
import itertools
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from shared.alerts.events import Alert
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import Backend, Configuration, Model, RetrySettings, Timeouts
from shared.credentials import Credentials
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.forwarded_call import ForwardedCall, Record
from shared.forwarding.forwarder import Forwarder
from shared.forwarding.late_attempts import LateAttempts
from shared.routing.breakers import Breakers
from shared.routing.deployments import DeploymentState
from shared.routing.retry_budget import RetryBudget
from shared.routing.rotation import Rotation
from shared.routing.router import Router
from shared.types import Call, Consumer, Target
from tests.harness.memory_store import MemoryStore

ANYONE = Consumer("c", "anyone")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%s\r\n"
END = b"0\r\n\r\n"


class Exchange:
    """One request that a backend has received, and the means to answer it. `connection` tells connections apart."""

    def __init__(
        self, writer: asyncio.StreamWriter, connection: int, path: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        self.connection = connection
        self.path = path
        self.headers = headers
        self.body = body
        self._writer = writer

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        """A whole answer as JSON. Underscores in the names of headers stand for dashes."""
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
        self._writer.write(head.encode() + _lines(headers) + b"\r\n" + data)

    def stream(self, **headers: str) -> None:
        self._writer.write(STREAM % _lines(headers))

    async def event(self, data: Any, name: str = "") -> None:
        line = f"event: {name}\n" if name else ""
        text = data if isinstance(data, str) else json.dumps(data)
        await self.raw(f"{line}data: {text}\n\n".encode())

    async def raw(self, data: bytes) -> None:
        """One chunk of a stream."""
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._writer.drain()

    def end(self) -> None:
        self._writer.write(END)

    def hang_up(self) -> None:
        self._writer.close()


type Script = Callable[[Exchange], Awaitable[None]]


class ScriptedBackend:
    """A server. `received`: its requests so far."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.script = script
        self.received: list[Exchange] = []
        self.port = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in [task for task in self._serving if task is not None]:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *fields = head.split("\r\n")
                headers = dict(field.lower().split(": ", 1) for field in fields if field)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.received.append(Exchange(writer, id(writer), line.split(" ")[1], headers, body))
                await self.script(self.received[-1])
                await writer.drain()
        writer.close()
        self._serving.discard(task)


class Forwarding:
    """The forwarding to some backends, each with all these models under their names."""

    def __init__(
        self,
        backends: Sequence[ScriptedBackend],
        timeouts: Timeouts,
        settings: Mapping[str, Model],
        retry: RetrySettings,
        more: Mapping[str, Any],
    ) -> None:
        models = {name: name for name in ("m", *settings)}
        configured = [
            Backend(
                name=backend.name,
                endpoint=f"http://127.0.0.1:{backend.port}",
                region=backend.name,
                models=models,
                **more,
            )
            for backend in backends
        ]
        rng = random.Random(7)
        self.configuration = Configuration(configured, dict(settings), timeouts=timeouts)
        self.breakers = Breakers(time.monotonic, rng)
        self.alerts: list[Alert] = []
        self._credentials = Credentials(None, {backend.name: "secret" for backend in backends})
        self._rotation = Rotation(MemoryStore().table("rotation"), rng)
        self.router = Router(self.configuration, self._rotation, self.breakers)
        self.client = BackendClient(self._credentials, self.breakers, timeouts, self.alerts.append)
        budget = RetryBudget(time.monotonic)
        self.late = LateAttempts()
        self.forwarder = Forwarder(self.client, self.breakers, self.router, settings, budget, self.late, retry)
        self._numbers = itertools.count()

    def sending(self, call: Call, record: Record | None = None, **plan: Any) -> ForwardedCall:
        planned = self.router.plan(ANYONE, call, **plan)
        return self.forwarder.sending(call, planned, f"r{next(self._numbers)}", record=record)

    def state(self, backend: str, model: str = "m") -> DeploymentState:
        target = next(one for one in self.configuration.backends if one.name == backend)
        return self.breakers.watched(Target(target, model, model))

    async def close(self) -> None:
        await self.late.close()
        await self.client.close()
        await self._rotation.close()
        await self._credentials.close()


@contextlib.asynccontextmanager
async def forwarding(
    *scripts: Script | int,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    models: Mapping[str, Model] | None = None,
    retry: RetrySettings = RetrySettings(),  # noqa: B008 - frozen
    **more: Any,
) -> AsyncIterator[tuple[Forwarding, list[ScriptedBackend]]]:
    """Backends a, b, c … with these scripts, and the forwarding to them. A number is the port of something else.
    `more`: fields of every backend."""
    async with AsyncExitStack() as stack:
        backends = []
        for name, script in zip("abcdefgh", scripts, strict=False):
            backend = ScriptedBackend(name, script if callable(script) else _silent)
            if callable(script):
                await stack.enter_async_context(backend)
            else:
                backend.port = script
            backends.append(backend)
        running = Forwarding(backends, timeouts, models or {}, retry, more)
        stack.push_async_callback(running.close)
        yield running, backends


@contextlib.contextmanager
def unreachable_port() -> Iterator[int]:
    """A port that accepts no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield listening.getsockname()[1]


def chat(content: str = "hello", path: str = "/v1/chat/completions", **fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return parse_call(match("POST", path), "", {}, json.dumps(body).encode())


def response(text: str = "hello", **fields: Any) -> Call:
    body = {"model": "m", "input": text, "store": False, **fields}
    return parse_call(match("POST", "/v1/responses"), "", {}, json.dumps(body).encode())


def completion(content: str = "hi", prompt: int = 7, said: int = 3) -> dict[str, Any]:
    """A whole answer of a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}


async def _silent(_: Exchange) -> None: ...


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode()
