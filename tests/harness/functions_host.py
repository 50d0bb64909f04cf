"""A stand-in for the Azure Functions host: runs a function app under Microsoft's own worker library.

    python -m tests.harness.functions_host APP_DIR [PORT]

It does what the host does for an HTTP trigger of a streaming app: the worker indexes APP_DIR/function_app.py and tells
the address of its own HTTP server; every request is forwarded there under the header x-ms-invocation-id, while the
invocation of that id runs. An invocation that nobody answers stays open, as it does in Azure, and is counted:

    GET  /admin/invocations        {"running": [...], "failed": [...], "completed": n}
    POST /admin/functions/NAME     runs a timer and waits for it

The host has a span for each request, always with the id HOST_SPAN, in the caller's trace or one of its own; the
invocation is told of it, while the request's own headers stay the caller's.

One JSON line on standard output says when it is ready. A connection serves one request, so that "the caller is gone"
is simply the end of its connection.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import httptools

HOST = "127.0.0.1"
HOST_SPAN = "5e1f5e1f5e1f5e1f"
_MAX_HEAD = 256 * 1024
_LINGER = 2.0  # seconds in which a caller that is still sending may read the answer
_ONEOF = {"rpc_data": ("data",), "data": ("http", "json", "string", "bytes")}
_OF_THE_CONNECTION = (b"connection", b"keep-alive", b"x-ms-invocation-id")


class Message:
    """Enough of a protobuf message: fields that were not given are None."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name[0].isupper():  # the library probes for types
            raise AttributeError(name)
        return None

    def WhichOneof(self, group: str) -> str | None:
        return next((name for name in _ONEOF[group] if name in vars(self)), None)


class Protos:
    """The generated protobuf module, as far as the worker library asks for it: classes made on demand."""

    def __getattr__(self, name: str) -> type[Message]:
        if name.startswith("__"):
            raise AttributeError(name)
        constants: dict[str, dict[str, Any]] = {
            "StatusResult": {"Failure": 0, "Success": 1, "Cancelled": 2},
            "BindingInfo": {"undefined": 0, "out": 1, "inout": 2},
        }
        kind = type(name, (Message,), constants.get(name, {}))
        setattr(self, name, kind)
        return kind


PROTOS = Protos()
SUCCESS = 1


class Function:
    """An indexed function and its trigger."""

    def __init__(self, metadata: Message, prefix: str) -> None:
        self.name: str = metadata.name
        self.id: str = metadata.function_id
        bindings = [json.loads(text) for text in metadata.raw_bindings]
        self.trigger: dict[str, Any] = next(b for b in bindings if b["type"].lower().endswith("trigger"))
        self.is_http = self.trigger["type"].lower() == "httptrigger"
        self.methods = {str(method).upper() for method in self.trigger.get("methods") or ()}
        self.route = route_pattern("/".join(part for part in (prefix, self.trigger.get("route", self.name)) if part))

    def takes(self, method: str, path: str) -> dict[str, str] | None:
        """The route's parameters when this function serves the request."""
        found = self.route.fullmatch(path)
        if found is None or (self.methods and method not in self.methods):
            return None
        return {name: value or "" for name, value in found.groupdict().items()}


def route_pattern(template: str) -> re.Pattern[str]:
    """A route such as `gateway/{operation}` or `{*path}` as a pattern of paths."""
    pattern = ""
    for part in template.strip("/").split("/"):
        if found := re.fullmatch(r"\{\*+(\w+)\??\}", part):
            pattern += rf"(?:/(?P<{found[1]}>.*))?"
        else:
            pattern += "/" + re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(part))
    return re.compile(pattern + "/?", re.I | re.S)


class Worker:
    """The worker library with one function app in it. To be started in the loop that serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = importlib.import_module("azure_functions_runtime")
        self._library.start_threadpool_executor()
        self.functions: list[Function] = []
        self.running: dict[str, str] = {}
        self.failed: list[str] = []
        self.completed = 0

    async def start(self) -> None:
        """Index the app. Sets `functions` and the address of the worker's own HTTP server."""
        request = SimpleNamespace(capabilities={}, function_app_directory=str(self._folder))
        init = await self._library.worker_init_request(_event("worker_init_request", request))
        if init.result.status != SUCCESS:
            sys.exit(f"the function app cannot be indexed: {init.result.exception.message}")
        settings = json.loads((self._folder / "host.json").read_bytes())
        prefix = settings.get("extensions", {}).get("http", {}).get("routePrefix", "api").strip("/")
        answer = await self._library.functions_metadata_request(_event("functions_metadata_request", Message()))
        self.functions = [Function(metadata, prefix) for metadata in answer.function_metadata_results or ()]
        if not self.functions or not init.capabilities.get("HttpUri"):
            sys.exit("the function app has no functions, or does not stream")
        for function in self.functions:
            request = SimpleNamespace(function_id=function.id)
            await self._library.function_load_request(_event("function_load_request", request))
        address = urlsplit(init.capabilities["HttpUri"])
        self.address = (str(address.hostname), int(address.port or 0))
        await self._server_has_started()

    async def _server_has_started(self) -> None:
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection(*self.address)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
        sys.exit("the worker's HTTP server did not start")

    def invoke(
        self, function: Function, data: Message, told: str, trace_parent: str = ""
    ) -> tuple[str, asyncio.Task[str]]:
        """Begin an invocation: its id, and a task that ends with the reason of its failure or ""."""
        invocation = str(uuid.uuid4())
        request = SimpleNamespace(
            invocation_id=invocation,
            function_id=function.id,
            input_data=[Message(name=function.trigger["name"], data=data)],
            trigger_metadata={},
            trace_context=SimpleNamespace(trace_parent=trace_parent, trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
        )
        self.running[invocation] = told
        task = asyncio.create_task(self._run(invocation, request))
        return invocation, task

    async def _run(self, invocation: str, request: SimpleNamespace) -> str:
        response = await self._library.invocation_request(_event("invocation_request", request))
        told = self.running.pop(invocation)
        if response.result.status == SUCCESS:
            self.completed += 1
            return ""
        problem = f"{told}: {response.result.exception.message}"
        self.failed.append(problem)
        return problem


def _event(kind: str, message: Any) -> SimpleNamespace:
    return SimpleNamespace(request=SimpleNamespace(**{kind: message}), properties={"host": HOST, "protos": PROTOS})


class Head:
    """The first lines of a request. Raises ValueError when they are none."""

    def __init__(self, data: bytes) -> None:
        line, *fields = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        method, target, _version = line.split(b" ")
        self.method, self.target = method.decode("ascii"), target.decode("latin-1")
        self.path = unquote(self.target.partition("?")[0])
        self.line = line
        self.fields = [(name.strip().lower(), value.strip()) for name, _, value in (f.partition(b":") for f in fields)]

    def trace_parent(self) -> str:
        """The host's span."""
        given = dict(self.fields).get(b"traceparent", b"").decode("latin-1")
        return f"00-{given[3:35]}-{HOST_SPAN}-{given[-2:]}" if given else f"00-{uuid.uuid4().hex}-{HOST_SPAN}-01"

    def forwarded(self, invocation: str) -> bytes:
        """As the worker's server receives them."""
        fields = [(name, value) for name, value in self.fields if name not in _OF_THE_CONNECTION]
        fields.append((b"x-ms-invocation-id", invocation.encode()))
        return b"\r\n".join([self.line, *(name + b": " + value for name, value in fields), b"", b""])


class Answer:
    """Follows the worker's answer to know where it ends; says that the connection ends with it."""

    def __init__(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._bodiless = method == "HEAD"
        self._head: bytes | None = b""
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """What goes to the caller."""
        self._parser.feed_data(data)
        if self._head is None:
            return data
        self._head += data
        line, separator, rest = self._head.partition(b"\r\n")
        if not separator:
            return b""
        self._head = None
        return line + b"\r\nconnection: close\r\n" + rest

    def on_headers_complete(self) -> None:
        self.complete = self._bodiless

    def on_message_complete(self) -> None:
        self.complete = self._parser.get_status_code() >= 200


class FrontEnd:
    """What listens: one request a connection."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = Head(await reader.readuntil(b"\r\n\r\n"))
        except (ValueError, asyncio.LimitOverrunError):
            await _refuse(writer, 400)
        except (asyncio.IncompleteReadError, OSError):
            pass  # nobody asked for anything
        else:
            with contextlib.suppress(OSError):  # the caller is gone
                await self._answer(head, reader, writer)
        finally:
            writer.close()

    async def _answer(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head.path.startswith("/admin/"):
            await self._administer(head, writer)
            return
        for function in self._worker.functions:
            if function.is_http and (parameters := function.takes(head.method, head.path)) is not None:
                await self._forward(function, parameters, head, reader, writer)
                return
        await _refuse(writer, 404)

    async def _administer(self, head: Head, writer: asyncio.StreamWriter) -> None:
        worker = self._worker
        if head.path == "/admin/invocations":
            told = {"running": [*worker.running.values()], "failed": worker.failed, "completed": worker.completed}
            await _send(writer, 200, told)
            return
        name = head.path.removeprefix("/admin/functions/")
        function = next((f for f in worker.functions if f.name == name and not f.is_http), None)
        if function is None or head.method != "POST":
            await _refuse(writer, 404)
            return
        due = json.dumps({"IsPastDue": False, "Schedule": {"AdjustForDST": True}, "ScheduleStatus": None})
        _, invocation = worker.invoke(function, Message(json=due), name)
        problem = await invocation
        await _send(writer, 500 if problem else 202, {"problem": problem})

    async def _forward(
        self,
        function: Function,
        parameters: Mapping[str, str],
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """The request to the worker's server and its answer back; when one side ends, so does the other."""
        http = SimpleNamespace(
            method=head.method,
            url=f"http://{HOST}{head.target}",
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.fields},
            params=parameters,
            query={},
            body=Message(bytes=b""),
        )
        told = f"{head.method} {head.target}"[:200]
        invocation, _ = self._worker.invoke(function, Message(http=http), told, head.trace_parent())
        upstream, worker = await asyncio.open_connection(*self._worker.address, limit=_MAX_HEAD)
        worker.write(head.forwarded(invocation))
        sending = asyncio.create_task(_pump(reader, worker, lambda data: data))
        answer = Answer(head.method)
        receiving = asyncio.create_task(_pump(upstream, writer, answer.feed, lambda: answer.complete))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            if answer.complete and not sending.done():
                writer.write_eof()
                await asyncio.wait((sending,), timeout=_LINGER)
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
            worker.close()


async def _pump(
    source: asyncio.StreamReader,
    drain: asyncio.StreamWriter,
    change: Callable[[bytes], bytes],
    done: Callable[[], bool] = lambda: False,
) -> None:
    while not done() and (data := await source.read(65_536)):
        drain.write(change(data))
        await drain.drain()


async def _refuse(writer: asyncio.StreamWriter, status: int) -> None:
    await _send(writer, status, None)


async def _send(writer: asyncio.StreamWriter, status: int, content: object) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    lines = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    writer.write(lines.encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def run(folder: Path, port: int = 0) -> None:
    """Serve the app in `folder` until SIGTERM."""
    worker = Worker(folder)
    await worker.start()
    server = await asyncio.start_server(FrontEnd(worker).serve, HOST, port, limit=_MAX_HEAD)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The worker's uvicorn has taken the signals of the process, which belong to the host.
        asyncio.get_running_loop().add_signal_handler(number, os._exit, 0)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://{HOST}:{port}", "functions": [f.name for f in worker.functions]}), flush=True)
    await server.serve_forever()


def main(arguments: list[str], before: Callable[[], object] = lambda: None) -> None:
    """`before` runs when the worker's process has been set up and the app is not yet imported."""
    folder = Path(arguments[0]).resolve()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    # The worker's process logs at this level; the host picks the lines up.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    before()
    asyncio.run(run(folder, int(arguments[1]) if len(arguments) > 1 else 0))


if __name__ == "__main__":
    main(sys.argv[1:])
