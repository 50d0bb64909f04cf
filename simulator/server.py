"""The sockets: a listener per region, which can go down and up on the same port, and shared state."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from .config import SimulatorConfig
from .faults import FaultQueue
from .identity import IdentityProvider
from .region import MAXIMUM_BODY_BYTES, Region
from .request_log import RequestLog
from .tenant import Tenant

HOST = "127.0.0.1"
BACKLOG = 1_024


class PortTaken(Exception):
    """A requested port is in use."""


_CLIENT_FAULTS = (HttpProcessingError, web.RequestPayloadError)


class _ServerFaults(logging.Filter):
    """Drops the tracebacks that aiohttp logs for a client's invalid HTTP or gzip."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], _CLIENT_FAULTS)


LOGGER = logging.getLogger(__name__)
LOGGER.addFilter(_ServerFaults())


class RegionListener:
    """The port of a region. While the region is down, the port stays reserved but refuses connections."""

    def __init__(self, region: Region, port: int) -> None:
        # Cancel the handler of a client that disconnects, so that nothing more is generated.
        self._server = web.Server(
            region.handle, request_factory=_build_request, handler_cancellation=True, access_log=None, logger=LOGGER
        )
        self._socket = bind(port)
        self.port: int = self._socket.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._changing = asyncio.Lock()

    async def up(self) -> None:
        """Raises PortTaken."""
        async with self._changing:
            if self._listener is not None:
                return
            loop = asyncio.get_running_loop()
            try:
                self._listener = await loop.create_server(self._server, sock=self._socket, backlog=BACKLOG)
            except OSError as error:
                raise PortTaken(f"port {self.port} of {HOST} cannot be used: {error.strerror}") from error

    async def down(self) -> None:
        """Close the listening socket and every connection. Raises PortTaken."""
        async with self._changing:
            if self._listener is not None:
                self.close()
                # uvloop closes a socket in the next iteration; only then can the port be reserved.
                await asyncio.sleep(0.01)
                self._socket = bind(self.port)

    def close(self) -> None:
        if self._listener is None:
            self._socket.close()
            return
        self._listener.close()
        self._listener = None
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()


class Simulator:
    """All regions and their shared state. Create it inside a running loop. Raises PortTaken."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.api_key = config.api_key
        self.tenant = Tenant()
        self.identity = IdentityProvider(self.tenant)
        self.faults = FaultQueue()
        self.log = RequestLog([region.name for region in config.regions])
        self.regions: dict[str, Region] = {}
        self.listeners: dict[str, RegionListener] = {}
        for each in config.regions:
            region = Region(each, api_key=self.api_key, identity=self.identity, faults=self.faults, log=self.log)
            self.regions[each.name] = region
            self.listeners[each.name] = RegionListener(region, each.port)

    async def start(self) -> None:
        for listener in self.listeners.values():
            await listener.up()

    async def reset(self) -> None:
        """Restore the initial state: no faults, regions up, configured limits, empty caches, an empty log."""
        self.faults.delete()
        self.identity.reset()
        self.tenant.reset()
        for name, listener in self.listeners.items():
            await listener.up()
            self.regions[name].restore()
        self.log.reset()

    def stop(self) -> None:
        for listener in self.listeners.values():
            listener.close()


def bind(port: int) -> socket.socket:
    """Reserve a port of the loopback interface without listening on it. Raises PortTaken."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError as error:
        bound.close()
        raise PortTaken(f"port {port} of {HOST} cannot be used: {error.strerror}") from error
    return bound


def _build_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAXIMUM_BODY_BYTES)
