"""The one backend of a connection: chosen like that of a call, and kept to the end."""

import asyncio

import aiohttp
from aiohttp import WSMsgType

from shared.errors import StateUnavailable
from shared.forwarding.connecting import Connected, connect
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.responses.dispatcher import state_unavailable
from shared.sockets import _endings
from shared.sockets._caller import Message
from shared.sockets._endings import Ending
from shared.sockets.admission import AdmittedConnection, Stages
from shared.types import Call, Consumer, Plan, Target


class Pin:
    """One per connection. The headers of its upgrade have the caller's preferences."""

    def __init__(self, stages: Stages, admitted: AdmittedConnection) -> None:
        self._planner = stages.planner
        self._forwarder = stages.forwarder
        self._admitted = admitted
        self._connected = asyncio.Event()
        self._open: Connected | None = None
        self.target: Target | None = None  # the deployment that the connection was opened for

    async def choose(self, consumer: Consumer, call: Call) -> tuple[Target, str]:
        """Return the deployment that serves a call, and the model that it is planned for. The first call chooses the
        backend, and opens the connection to it. Raises `GatewayError`."""
        plan, binding = await self._planner.plan(consumer, call, self._admitted.headers)
        if self._open is None:
            try:
                request_id = self._admitted.received.request_id
                self._open = await connect(self._forwarder, self._admitted.call, plan, request_id)
            except ForwardingFailed as failed:
                raise state_unavailable(failed.error, binding) from None
            self.target = self._open.target
            self._connected.set()
            return self._open.target, plan.model
        return self._kept(plan, self._open.target), plan.model

    async def check(self, consumer: Consumer, call: Call) -> None:
        """Check the models and the objects that an event names. Raises `GatewayError`."""
        if self.target is not None:
            await self._planner.check(consumer, call, self.target.backend)

    async def send(self, message: Message) -> None:
        """Send a message, once the backend has taken most of what was sent before. A closed connection is reported
        by `receive`."""
        await self._connected.wait()
        assert self._open is not None
        try:
            await self._open.socket.send_frame(message.data, WSMsgType.BINARY if message.binary else WSMsgType.TEXT)
        except (aiohttp.ClientError, OSError):
            await asyncio.Event().wait()

    async def receive(self) -> Message | Ending:
        """Wait for the next message of the backend, or for its end."""
        await self._connected.wait()
        assert self._open is not None
        socket = self._open.socket
        received = await socket.receive()
        match received.type:
            case WSMsgType.TEXT | WSMsgType.BINARY:
                return Message(received.data, received.type is WSMsgType.BINARY)
            case WSMsgType.CLOSE:
                return _endings.by_backend(received.data, received.extra or "")
            case WSMsgType.ERROR if socket.close_code == _endings.TOO_BIG:
                return _endings.TOO_LARGE
        return _endings.by_backend(None, "")

    async def close(self, code: int, fault: str) -> None:
        """End the connection to the backend. `fault`: what the backend did wrong, or ""."""
        if self._open is None:
            return
        opened, self._open = self._open, None
        self._forwarder.client.disconnected(opened.target, fault)
        await opened.socket.close(code=code if _endings.sendable(code) else _endings.NORMAL)

    @staticmethod
    def _kept(plan: Plan, pinned: Target) -> Target:
        for target in plan.targets:
            if target.backend.name == pinned.backend.name and target.model in (plan.model, plan.canary):
                return target
        raise StateUnavailable(
            f"This connection goes to the backend {pinned.backend.name!r}, which cannot serve this response of "
            f"{plan.model or 'no model'} now: open a new connection for it."
        )
