"""The whole gateway in the process of a test, on tables in memory, with backends that a test scripts, and its callers.

Only the tables are replaced, so a test sees every turn of the event loop, and every row."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any, cast

from starlette.requests import Request

from shared import bootstrap
from shared.auth.consumers import Consumers
from shared.bootstrap import OpenTables
from shared.config.limits import Limits
from shared.process.application import Application
from shared.storage import Properties
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore

type Message = MutableMapping[str, Any]
type Answering = Callable[["Exchange"], Awaitable[None]]


class Tables(MemoryStore):
    """Tables in memory with the address that the gateway asks for."""

    endpoint = "memory"

    def usage(self) -> dict[str, Properties]:
        """All raw rows of calls on record, by the id of their request."""
        parts = (part for name, rows in self._tables.items() if name.startswith("usage2") for part in rows.values())
        return {key: row for part in parts for key, (row, _) in part.items() if "s_key" in row or "e_status" in row}


class Exchange:
    """A request that a backend has received. Its answer is what the script writes."""

    def __init__(self, writer: asyncio.StreamWriter, path: str, body: bytes, number: int) -> None:
        self._writer = writer
        self.path = path
        self.body = body
        self.number = number

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body[:1] == b"{" else {}

    def answer(self, status: int, body: Any, *, encoding: str = "identity") -> None:
        """A whole answer: JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
        self._writer.write(f"{head}content-encoding: {encoding}\r\n\r\n".encode() + data)

    def stream(self, *, encoding: str = "identity") -> None:
        """Begin a stream of events."""
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        self._writer.write(f"{head}content-encoding: {encoding}\r\n\r\n".encode())

    async def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        await self.piece(f"data: {text}\n\n".encode())

    async def piece(self, data: bytes) -> None:
        """Bytes of a stream as they are."""
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._writer.drain()

    def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")


def chat(prompt: int = 7, said: int = 3, **more: Any) -> dict[str, Any]:
    """A whole answer of chat with this usage."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said},
        **more,
    }


@contextlib.asynccontextmanager
async def backend(name: str, models: dict[str, str], script: Answering) -> AsyncIterator[dict[str, Any]]:
    """A backend that answers by `script`, as an entry of the configuration."""
    numbers = iter(range(1, 1_000_000))
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                await script(Exchange(writer, head.split(" ")[1], body, next(numbers)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield {"name": name, "endpoint": endpoint, "region": name, "auth": {"api_key_env": "K"}, "models": models}
    finally:
        server.close()
        for task in list(serving):
            task.cancel()


@contextlib.asynccontextmanager
async def gateway(
    tables: Tables, backends: list[dict[str, Any]], management_key: Any = "", **document: Any
) -> AsyncIterator[Application]:
    """The application with this configuration."""

    @contextlib.asynccontextmanager
    async def opened(_: object) -> AsyncIterator[Tables]:
        yield tables

    document = {"ledger": {"overflow_bytes": 0}} | document | {"backends": backends}
    environ = {"GATEWAY_CONFIG": json.dumps(document), "GATEWAY_STORAGE": "UseDevelopmentStorage=true", "K": "secret"}
    environ["GATEWAY_MANAGEMENT_KEY"] = management_key
    async with bootstrap.application(environ, cast("OpenTables", opened)) as application:
        yield application


async def key(tables: Tables, limits: Limits = Limits(), **more: Any) -> str:  # noqa: B008 - frozen
    """A new key with these limits."""
    policy: dict[str, Any] = {"models": None, "limits": limits} | more
    _, text = await create_consumer(Consumers(tables), "in process", **policy)
    return text


class Reply:
    """The answer of a caller so far."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False


async def call(
    application: Application,
    key: str,
    path: str,
    body: dict[str, Any] | bytes | Sequence[bytes] = b"",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    gone: asyncio.Event | None = None,
    pause: float = 0.0,
    query: str = "",
    reply: Reply | None = None,
) -> Reply:
    """Make a call as an edge would. `gone`: set when the caller hangs up; `pause`: seconds before each piece of a body
    in pieces; `reply`: of the caller's own, who looks at it meanwhile."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    pieces = [data] if isinstance(data, bytes) else list(data)
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    reply, gone = reply or Reply(), gone or asyncio.Event()

    async def receive() -> Message:
        if pieces:
            if pause:
                await asyncio.sleep(pause)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            reply.body += message.get("body", b"")
            if not message.get("more_body"):
                reply.complete = True
                gone.set()

    try:
        response = await application.front.handle(Request(scope, receive))
        await response(scope, receive, send)
    finally:
        gone.set()
    return reply
