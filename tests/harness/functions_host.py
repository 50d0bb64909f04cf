"""An emulation of the Azure Functions host: runs a function app under Microsoft's own worker library.

    python -m tests.harness.functions_host APP_DIR [PORT] [options]

It does with an HTTP trigger of a streaming app as the host does: it starts a process for the worker, begins an
invocation for each request, and forwards the request to the worker's own HTTP server. The worker has to bring both
together. A caller is answered when both have ended; an invocation whose request never came waits until the app's
timeout, when the host kills the worker. The bodies of the host's own answers, its memory and the parsing of bodies are
not emulated. For whoever has the master key there are

    GET  /admin/invocations        {"running": [...], "failed": [...], "completed": n} of the running worker
    POST /admin/functions/NAME     runs a timer and waits for it

One JSON line on standard output says when it is ready; the log is on standard error (`functions_host_log`).
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.harness import functions_host_http as http
from tests.harness.functions_host_channel import Function, Invocation, Worker, WorkerFailed
from tests.harness.functions_host_forwarding import CallerGone, Forwarder, ForwardingFailed, Pool, Stream
from tests.harness.functions_host_log import Log

HOST = "127.0.0.1"
MASTER_KEY = "the-masters-key"
_MAX_HEAD = 256 * 1024
_HEAD_SECONDS = 30.0  # Kestrel's RequestHeadersTimeout
_LINGER = 2.0  # seconds in which a caller that is still sending may read the answer
_CRASHES = 3  # of the worker, after which the host ends


class Host:
    """The host's process: the worker, restarted when it dies, and the requests that come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder = Path(options.folder).resolve()
        settings = json.loads((self._folder / "host.json").read_bytes())
        self._log = Log(settings.get("logging", {}))
        self._prefix = settings.get("extensions", {}).get("http", {}).get("routePrefix", "api").strip("/")
        self._timeout = options.function_timeout or _seconds(settings.get("functionTimeout", "00:30:00"))
        self._most_body = int(os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", 104_857_600))
        self._home_page = os.environ.get("AzureWebJobsDisableHomepage") != "true"  # noqa: SIM112 - Azure spells it so
        self._requests: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self.worker: Worker

    async def run(self) -> int:
        """Serve until SIGTERM, or until the worker has died too often; the exit code."""
        await self._start_worker()
        server = await asyncio.start_server(self._accept, HOST, self._options.port, limit=_MAX_HEAD)
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        self._announce(server.sockets[0].getsockname()[1])
        stopping = asyncio.create_task(stopped.wait())
        watching = asyncio.create_task(self._restart_worker())
        await asyncio.wait((stopping, watching), return_when=asyncio.FIRST_COMPLETED)
        server.close()
        if self._requests and stopping.done():
            await asyncio.wait(self._requests, timeout=self._options.grace)
        self.worker.kill()
        return 0 if stopping.done() else 1

    def _announce(self, port: int) -> None:
        worker = self.worker
        line = {"url": f"http://{HOST}:{port}", "functions": [f.name for f in worker.functions], "worker": worker.pid}
        print(json.dumps(line), flush=True)

    async def _start_worker(self) -> None:
        folder, placeholder = str(self._folder), self._options.placeholder
        self.worker = Worker(self._options.worker, "" if placeholder else folder, self._log, self._timeout)
        with contextlib.suppress(WorkerFailed):  # "Running" without functions, and the reason nowhere
            await self.worker.start(self._prefix, folder if placeholder else None)
        if self.worker.address is not None:
            self._pool = Pool(self.worker.address, self._options.idle)
            self._forwarder = Forwarder(self._pool, self._options.silence)
        self._ready.set()

    async def _restart_worker(self) -> None:
        for crash in range(1, _CRASHES + 1):
            await self.worker.died
            self._ready.clear()
            self._log.write("Error", "Host", "the worker has died")
            if self.worker.address is not None:
                self._pool.close()
            if crash < _CRASHES:
                await self._start_worker()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):  # the caller is gone, maybe in the middle of its body
                await self._serve((reader, writer))
        finally:
            writer.close()

    async def _serve(self, caller: Stream) -> None:
        try:
            head = await self._head(caller)
            if head is not None:
                request = asyncio.ensure_future(self._route(head, caller))
                self._requests.add(request)
                request.add_done_callback(self._requests.discard)
                await request
        except http.Refused as refused:
            await http.send(caller[1], refused.status)
            await _linger(caller)

    async def _head(self, caller: Stream) -> http.Head | None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                return await http.read_head(caller[0], caller[1].get_extra_info("peername")[0])
        except TimeoutError:
            raise http.Refused(408) from None

    async def _route(self, head: http.Head, caller: Stream) -> None:
        if head.path.lower().startswith(("/admin/", "/runtime/")):
            await self._administer(head, caller[1])
            return
        await self._ready.wait()
        for function in self.worker.functions:
            if function.is_http and (parameters := function.takes(head.method, head.path)) is not None:
                await self._invoke(function, parameters, head, caller)
                return
        if head.path in ("/", "/favicon.ico"):
            page = b"<html>Your Functions 4.0 app is up and running</html>" if self._home_page else b""
            await http.send(caller[1], 200 if page else 204, page, "text/html")
        else:
            await http.send(caller[1], 404)
        await _linger(caller)

    async def _administer(self, head: http.Head, writer: asyncio.StreamWriter) -> None:
        if head.path == "/admin/host/ping":
            await http.send(writer, 200)
        elif not head.has_key(MASTER_KEY):
            await http.send(writer, 401)
        elif head.path == "/admin/invocations":
            await http.send(writer, 200, json.dumps(self._invocations()).encode())
        else:
            await self._run_timer(head, writer)

    def _invocations(self) -> dict[str, object]:
        worker = self.worker
        running = [invocation.label for invocation in worker.running.values()]
        return {"running": running, "failed": worker.failed, "completed": worker.completed}

    async def _run_timer(self, head: http.Head, writer: asyncio.StreamWriter) -> None:
        name = head.path.removeprefix("/admin/functions/")
        function = next((f for f in self.worker.functions if f.name == name and not f.is_http), None)
        if function is None or head.method != "POST":
            await http.send(writer, 404)
            return
        due = {"IsPastDue": False, "Schedule": {"AdjustForDST": True}, "ScheduleStatus": None}
        invocation = self.worker.invoke(function, name, head.trace_parent(), json=json.dumps(due))
        problem = await invocation.ended
        invocation.overdue.cancel()
        await http.send(writer, 500 if problem else 202, json.dumps({"problem": problem}).encode())

    async def _invoke(self, function: Function, parameters: dict[str, str], head: http.Head, caller: Stream) -> None:
        """Begin an invocation and forward the request; the caller is answered when both have ended."""
        if b"expect" in head.fields and (head.length or 0) <= self._most_body:
            caller[1].write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body: AsyncIterator[bytes] | None = None
        if head.chunked:
            body = http.chunks(caller[0], self._most_body)
        elif head.length:
            body = http.whole(await http.read_whole(caller[0], head.length, self._most_body))
        data = {
            "method": head.method,
            "url": f"http://{HOST}{head.target}",
            "headers": {name.decode(): b", ".join(values).decode() for name, values in head.fields.items()},
            "params": parameters,
        }
        worker = self.worker
        label = f"{head.method} {head.target}"[:200]
        invocation = worker.invoke(function, label, head.trace_parent(), http=data)
        if worker.address is None:
            await self._answer(invocation, caller)
            return
        forwarder, begun = self._forwarder, asyncio.Event()
        try:
            await self._forward(forwarder, worker, head, body, invocation.id, caller, begun)
        except ForwardingFailed as failure:
            self._log.write("Error", f"Function.{function.name}", f"not forwarded: {failure} ({label})")
            if begun.is_set():
                _reset(caller[1])
            await invocation.ended
            if not begun.is_set() and not isinstance(failure, CallerGone):
                raise http.Refused(500) from None
        else:
            await invocation.ended
            await _linger(caller)
        finally:
            invocation.overdue.cancel()

    async def _answer(self, invocation: Invocation, caller: Stream) -> None:
        """The answer of an app that does not stream."""
        problem = await invocation.ended
        invocation.overdue.cancel()
        answer = invocation.answer
        if problem or answer is None:
            raise http.Refused(500)
        await http.send(caller[1], answer["status"], answer["body"].encode(), headers=answer["headers"])
        await _linger(caller)

    async def _forward(
        self,
        forwarder: Forwarder,
        worker: Worker,
        head: http.Head,
        body: AsyncIterator[bytes] | None,
        number: str,
        caller: Stream,
        begun: asyncio.Event,
    ) -> None:
        assert worker.address is not None
        await asyncio.sleep(self._options.lag)
        if not head.chunked and (caller[0].at_eof() or caller[0].exception()):
            raise CallerGone("the caller left before its request was forwarded")
        try:
            lines = head.forwarded(number, "{}:{}".format(*worker.address))
            await forwarder.forward(head.method, lines, body, caller, begun.set)
        except ValueError as error:
            raise ForwardingFailed(str(error)) from None
        except EOFError:
            raise CallerGone("the caller left in the middle of its body") from None
        except http.Refused:
            raise ForwardingFailed("the body is too long, or malformed") from None


async def _linger(caller: Stream) -> None:
    """Let a caller that is still sending read its answer."""
    with contextlib.suppress(OSError, TimeoutError):
        caller[1].write_eof()
        async with asyncio.timeout(_LINGER):
            while await caller[0].read(65_536):
                pass


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST: a linger time of zero does that."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _seconds(span: str) -> float:
    hours, minutes, seconds = span.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="functions_host")
    parser.add_argument("folder")
    parser.add_argument("port", nargs="?", type=int, default=0)
    parser.add_argument(
        "--worker", default="tests.harness.functions_host_worker", help="module of the worker's process"
    )
    parser.add_argument("--placeholder", action="store_true", help="start the worker without the app")
    parser.add_argument("--lag", type=float, default=0.0, help="seconds between an invocation and its request")
    parser.add_argument("--silence", type=float, default=240.0, help="seconds without a byte that end a request")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds for which connections to the worker are kept")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that running requests have at the end")
    parser.add_argument("--function-timeout", type=float, help="seconds; without it host.json's, or 30 minutes")
    # The worker's module is found from here, whatever folder the app is in.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    sys.exit(asyncio.run(Host(parser.parse_args(arguments)).run()))


if __name__ == "__main__":
    main(sys.argv[1:])
