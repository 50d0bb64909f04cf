"""A gateway that serves WebSockets on a real socket, in the process of a test, in front of a simulator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import uvicorn
from openai import AsyncOpenAI
from starlette.types import Receive, Scope, Send

from shared.config.limits import Limits
from shared.edges import serving
from shared.edges.http_protocol import Protocol
from shared.edges.websocket_protocol import LARGEST_MESSAGE
from shared.edges.websocket_protocol import Protocol as WebSocketProtocol
from shared.process.application import Application
from shared.requests.connections import STATE
from simulator.config import RegionConfig, SimulatorConfig
from simulator.request_log import LogEntry
from simulator.server import Simulator
from tests.harness import in_process
from tests.harness.in_process import Tables
from tests.harness.patience import eventually

REGIONS = {"sweden": "swedencentral", "virginia": "eastus2"}
MODELS = {"gpt-realtime": "gpt-realtime", "talk": "gpt-realtime", "gpt-4o": "gpt-4o", "mini": "gpt-4o-mini"}


class Served(NamedTuple):
    """`url` begins with ws://."""

    url: str
    tables: Tables
    simulator: Simulator
    application: Application
    server: uvicorn.Server
    clients: list[AsyncOpenAI]

    async def key(self, limits: Limits = Limits(), **more: Any) -> str:  # noqa: B008 - frozen
        return await in_process.key(self.tables, limits, **more)

    def openai(self, key: str, path: str = "/v1") -> AsyncOpenAI:
        client = AsyncOpenAI(base_url=self.url.replace("ws", "http", 1) + path, api_key=key, max_retries=0)
        self.clients.append(client)
        return client

    def rows(self) -> list[dict[str, Any]]:
        """The raw usage rows, oldest first."""
        return [dict(row) for _, row in sorted(self.tables.usage().items())]

    def charged(self) -> list[LogEntry]:
        """The charges of the simulator, oldest first."""
        return [entry for entry in self.simulator.log.entries if entry.input_tokens or entry.seconds]


@contextlib.asynccontextmanager
async def served(
    pace: float = 0.0,
    models_of: Mapping[str, Any] = MODELS,
    tls: tuple[str, str] | None = None,
    settings_of: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **document: Any,
) -> AsyncIterator[Served]:
    """A gateway in front of two regions with these models. `pace`: seconds per chunk; `tls`: the files of a key and of
    its certificate; `settings_of`: more of each backend."""
    regions = tuple(RegionConfig(name=name, seconds_per_chunk=pace) for name in REGIONS.values())
    simulator, tables = Simulator(SimulatorConfig(regions=regions, api_key="secret")), Tables()
    for listener in simulator.listeners.values():
        await listener.up()
    own = [
        {
            "name": name,
            "endpoint": f"http://127.0.0.1:{simulator.listeners[region].port}",
            "region": region,
            "auth": {"api_key_env": "K"},
            "models": dict(models_of),
            **settings_of.get(name, {}),
        }
        for name, region in REGIONS.items()
    ]
    async with in_process.gateway(tables, own, **document) as application:
        server, task = await listening(application, tls)
        clients: list[AsyncOpenAI] = []
        host, port = server.servers[0].sockets[0].getsockname()
        try:
            yield Served(
                f"{'ws' if tls is None else 'wss'}://{host}:{port}", tables, simulator, application, server, clients
            )
        finally:
            for client in clients:
                await client.close()
            server.should_exit = True
            await task
            for listener in simulator.listeners.values():
                listener.close()


async def listening(
    application: Application, tls: tuple[str, str] | None
) -> tuple[uvicorn.Server, "asyncio.Task[None]"]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(application, scope, receive, send)
        else:
            await serving.serve(application, scope, receive, send)

    config = uvicorn.Config(
        app,
        port=0,
        http=Protocol,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        ws_max_size=LARGEST_MESSAGE,
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=3,
        ssl_keyfile=tls[0] if tls is not None else None,
        ssl_certfile=tls[1] if tls is not None else None,
    )
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started)
    return server, task


async def _lifespan(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"][STATE] = application.connections
    for stage in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{stage}.complete"})
