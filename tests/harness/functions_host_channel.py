"""The worker's process as the emulated Functions host sees it: its functions, and the invocations that run in it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.harness.functions_host_log import Log

_LINE = 2**26


class Function:
    """An indexed function and its trigger."""

    def __init__(self, indexed: Mapping[str, Any], prefix: str) -> None:
        self.name: str = indexed["name"]
        self.id: str = indexed["id"]
        trigger = indexed["trigger"]
        self.is_http = trigger["type"].lower() == "httptrigger"
        self.methods = {str(method).upper() for method in trigger.get("methods") or ()}
        self.route = route_pattern("/".join(part for part in (prefix, trigger.get("route", self.name)) if part))

    def takes(self, method: str, path: str) -> dict[str, str] | None:
        """The route's parameters when this function serves the request."""
        match = self.route.fullmatch(path)
        if match is None or (self.methods and method not in self.methods):
            return None
        return {name: value or "" for name, value in match.groupdict().items()}


def route_pattern(template: str) -> re.Pattern[str]:
    """A route such as `gateway/{operation}` or `{*path}` as a pattern of paths. No part of a path is empty."""
    pattern = r"(?!//)"
    for part in template.strip("/").split("/"):
        if match := re.fullmatch(r"\{\*+(\w+)\??\}", part):
            pattern += rf"(?:/(?P<{match[1]}>.*))?"
        else:
            pattern += "/" + re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(part))
    return re.compile(pattern + "/?", re.I | re.S)


class Invocation:
    """One run of a function. `ended` is done when the worker has said so, with the reason of a failure or "".
    `answer`: of an app that does not stream. `overdue`: the app's timeout, which whoever waits for the answer cancels.

    The worker that dies ends all of its invocations, as failures."""

    overdue: asyncio.TimerHandle
    answer: dict[str, Any] | None = None

    def __init__(self, function: Function, label: str) -> None:
        self.id = str(uuid.uuid4())
        self.function = function
        self.label = label
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class WorkerFailed(Exception):
    """The app cannot be indexed."""


class Worker:
    """One process of the worker. `died` is done when it has ended."""

    def __init__(self, module: str, folder: str, log: Log, function_timeout: float) -> None:
        self._module = module
        self._folder = folder
        self._log = log
        self._function_timeout = function_timeout
        self._reported: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.running: dict[str, Invocation] = {}
        self.failed: list[str] = []
        self.completed = 0
        self.functions: list[Function] = []
        self.address: tuple[str, int] | None = None

    async def start(self, prefix: str, specialised_from: str | None = None) -> None:
        """Start the process and index the app; a placeholder gets it, with this process's environment, as its first
        message. Raises `WorkerFailed`."""
        host, worker = socket.socketpair()
        with worker:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module, str(worker.fileno()), self._folder),
                pass_fds=[worker.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE,
            )
        reader, self._writer = await asyncio.open_connection(sock=host, limit=_LINE)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._console = [
            asyncio.create_task(self._read_console(stream)) for stream in (self._process.stdout, self._process.stderr)
        ]
        self.died = asyncio.create_task(self._listen(reader))
        if specialised_from is not None:
            self._send(kind="specialise", folder=specialised_from, environment=dict(os.environ))
        report = await self._reported
        if report["kind"] == "failed":
            raise WorkerFailed(report["problem"])
        self.functions = [Function(indexed, prefix) for indexed in report["functions"]]
        if report["uri"]:
            uri = urlsplit(report["uri"])
            self.address = (str(uri.hostname), int(uri.port or 0))

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """The only end that the worker knows."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    def invoke(self, function: Function, label: str, trace_parent: str, **data: Any) -> Invocation:
        """Begin an invocation. `data`: `http` or `json`, by the function's trigger. The worker is killed, with all that
        it is doing, when the invocation takes longer than the app's timeout."""
        invocation = Invocation(function, label)
        self.running[invocation.id] = invocation
        loop = asyncio.get_running_loop()
        invocation.overdue = loop.call_later(self._function_timeout, self._overdue, invocation)
        self._log.write("Information", f"Function.{function.name}", f"Executing '{function.name}' (Id={invocation.id})")
        if self.died.done():
            self._end(invocation.id, "the worker died")
        else:
            self._send(kind="invoke", id=invocation.id, function=function.id, trace_parent=trace_parent, **data)
        return invocation

    def _overdue(self, invocation: Invocation) -> None:
        self._log.write("Error", "Host.Results", f"functionTimeout exceeded: {invocation.label}; the worker is killed")
        self.kill()

    def _send(self, **message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):  # it died before it had read everything
            while line := await reader.readline():
                self._take(json.loads(line))
        await self._process.wait()
        await asyncio.gather(*self._console)
        if not self._reported.done():
            self._reported.set_result({"kind": "failed", "problem": "the worker died before it had indexed the app"})
        for invocation in [*self.running]:
            self._end(invocation, "the worker died")
        self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "log":
            self._take_record(message)
        elif message["kind"] == "ended":
            self.running[message["id"]].answer = message["answer"]
            self._end(message["id"], message["problem"])
        else:
            self._reported.set_result(message)

    def _take_record(self, record: Mapping[str, Any]) -> None:
        invocation = self.running.get(record["invocation"])
        if invocation is None:
            self._log.of_no_invocation(record["logger"], record["level"], record["text"])
        else:
            name, number = invocation.function.name, invocation.id
            self._log.of_invocation(name, number, record["logger"], record["level"], record["text"])

    def _end(self, number: str, problem: str) -> None:
        invocation = self.running.pop(number)
        if problem:
            self.failed.append(f"{invocation.label}: {problem}")
        else:
            self.completed += 1
        name, word = invocation.function.name, "Failed" if problem else "Succeeded"
        level = "Error" if problem else "Information"
        self._log.write(level, f"Function.{name}", f"Executed '{name}' ({word}, Id={number}) {problem}".rstrip())
        invocation.ended.set_result(problem)

    async def _read_console(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._log.of_console(line.decode(errors="replace").rstrip("\n"))
