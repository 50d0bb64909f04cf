"""The worker process of the emulated Functions host: a function app under Microsoft's own worker library.

    python -m tests.harness.functions_host_worker CHANNEL APP_DIR

CHANNEL is the number of an inherited socket to the host, which carries one JSON message a line in place of gRPC. With
an empty APP_DIR the worker is a placeholder: its first message names the app and its environment. It then reports the
indexed functions and the address of its own HTTP server, and runs the invocations that come.

A log record carries the invocation that was started last, whoever wrote it, as in Microsoft's worker. The worker knows
no orderly end: the host kills it, and it ends with its channel.
"""

import asyncio
import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
_ONEOF = {"rpc_data": ("data",), "data": ("http", "json", "string", "bytes")}


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
_SUCCESS = 1


class Channel:
    """The worker's end of the connection to its host."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=number)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)

    async def receive(self) -> Any:
        """The next message. Ends the process where there is no host any more."""
        line = await self._reader.readline()
        if not line:
            os._exit(1)
        return json.loads(line)

    def send(self, **message: Any) -> None:
        """From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._writer.write, json.dumps(message).encode() + b"\n")


class ChannelLogging(logging.Handler):
    """Sends records to the host, under the invocation that was started last."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        context = importlib.import_module("azure_functions_runtime.bindings.context")
        self._local = getattr(context, "_invocation_id_local", None)  # version 1.0.0 has none

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(
            kind="log",
            invocation=getattr(self._local, "invocation_id", None),
            logger=record.name,
            level=record.levelname,
            text=self.format(record),
        )


class Worker:
    """The worker library with one function app in it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._library = importlib.import_module("azure_functions_runtime")
        self._library.start_threadpool_executor()
        self._triggers: dict[str, str] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, folder: str) -> None:
        """Index the app, as the first thing that the process does."""
        request = SimpleNamespace(capabilities={}, function_app_directory=folder)
        await self._report(await self._library.worker_init_request(_event("worker_init_request", request)))

    async def specialise(self, folder: str, environment: Mapping[str, str]) -> None:
        """Turn a placeholder into the worker of an app, whose modules it could not import before."""
        _leave_own_folder()
        request = SimpleNamespace(function_app_directory=folder, environment_variables=environment)
        event = _event("function_environment_reload_request", request)
        await self._report(await self._library.function_environment_reload_request(event))

    async def _report(self, started: Message) -> None:
        if started.result.status != _SUCCESS:
            self._channel.send(kind="failed", problem=started.result.exception.message)
            return
        answer = await self._library.functions_metadata_request(_event("functions_metadata_request", Message()))
        functions = []
        for metadata in answer.function_metadata_results or ():
            bindings = [json.loads(text) for text in metadata.raw_bindings]
            trigger = next(binding for binding in bindings if binding["type"].lower().endswith("trigger"))
            self._triggers[metadata.function_id] = trigger["name"]
            functions.append({"name": metadata.name, "id": metadata.function_id, "trigger": trigger})
            request = SimpleNamespace(function_id=metadata.function_id)
            await self._library.function_load_request(_event("function_load_request", request))
        self._channel.send(kind="ready", functions=functions, uri=(started.capabilities or {}).get("HttpUri", ""))

    def invoke(self, message: dict[str, Any]) -> None:
        task = asyncio.create_task(self._invoke(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _invoke(self, message: dict[str, Any]) -> None:
        if "http" in message:
            http = SimpleNamespace(**message["http"], query={}, body=Message(bytes=b""))
            data = Message(http=http)
        else:
            data = Message(json=message["json"])
        request = SimpleNamespace(
            invocation_id=message["id"],
            function_id=message["function"],
            input_data=[Message(name=self._triggers[message["function"]], data=data)],
            trigger_metadata={},
            trace_context=SimpleNamespace(trace_parent=message["trace_parent"], trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
        )
        response = await self._library.invocation_request(_event("invocation_request", request))
        succeeded = response.result.status == _SUCCESS
        problem = "" if succeeded else response.result.exception.message or "failed"
        self._channel.send(kind="ended", id=message["id"], problem=problem, answer=_plain_answer(response))


def _leave_own_folder() -> None:
    """Let `import` find the modules of the app alone: this project is one as well."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


def _plain_answer(response: Message) -> dict[str, Any] | None:
    """The HTTP answer of an app that does not stream, which comes as the invocation's result."""
    http = response.return_value and response.return_value.http
    if not http:
        return None
    headers = {name: str(value) for name, value in (http.headers or {}).items()}
    return {"status": int(http.status_code), "headers": headers, "body": (http.body.bytes or b"").decode()}


def _event(kind: str, message: Any) -> SimpleNamespace:
    return SimpleNamespace(request=SimpleNamespace(**{kind: message}), properties={"host": HOST, "protos": PROTOS})


async def work(channel: Channel, folder: str, before: Callable[[], object]) -> None:
    """Serve the host until it kills the process."""
    await channel.open()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ChannelLogging(channel)])
    before()
    worker = Worker(channel)
    if folder:
        sys.path.insert(0, folder)
        await worker.start(folder)
    while True:
        message = await channel.receive()
        if message["kind"] == "specialise":
            await worker.specialise(message["folder"], message["environment"])
        else:
            worker.invoke(message)


def main(arguments: list[str], before: Callable[[], object] = lambda: None) -> None:
    """`before` runs when the worker's process has been set up and the app is not yet imported."""
    asyncio.run(work(Channel(int(arguments[0])), arguments[1], before))


if __name__ == "__main__":
    main(sys.argv[1:])
