"""One caller's connection: messages pass both ways, one at a time each, until one side ends it or its time is over."""

import asyncio
import contextlib
import logging

from shared.azure_openai import socket_events
from shared.config.document import Timeouts
from shared.errors import GatewayBusy, GatewayError
from shared.responses.rendering import error_body
from shared.sockets import _endings
from shared.sockets._caller import CallerClosed, CallerSocket, Message
from shared.sockets._conversation import Conversation
from shared.sockets._endings import Ending
from shared.sockets._pin import Pin
from shared.sockets.admission import AdmittedConnection, SocketAdmission

logger = logging.getLogger("tollgate.sockets")

RECHECK_EVERY = 30.0  # seconds; with the 60 s of cached keys, a revoked one ends its connections within 90 s
_LAST_EVENT = 5.0  # seconds in which a caller has to take the event that says why its connection ends


class Connection:
    """`run` it once."""

    def __init__(
        self,
        caller: CallerSocket,
        admitted: AdmittedConnection,
        conversation: Conversation,
        pin: Pin,
        admission: SocketAdmission,
        timeouts: Timeouts,
    ) -> None:
        self._caller = caller
        self._admitted = admitted
        self._conversation = conversation
        self._pin = pin
        self._admission = admission
        self._timeouts = timeouts
        self._clock = asyncio.get_running_loop().time
        self._seen = self._clock()  # the time of the last message of either side
        self._errors = 0

    async def run(self) -> Ending:
        """Relay until the end, and put on record what is left then. Raises nothing, also if the server cancels it."""
        ending = _endings.STOPS
        tasks = [asyncio.ensure_future(side) for side in (self._from_caller(), self._from_backend(), self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ending = next(task for task in tasks if task in done).result()
        except CallerClosed as closed:
            ending = _endings.by_caller(closed.code)
        except asyncio.CancelledError:  # by the server, which stops
            pass
        except Exception:
            logger.exception("connection %s failed: unexpected error", self._admitted.received.request_id)
            ending = _endings.DEFECT
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end(ending)
        return ending

    async def _from_caller(self) -> Ending:
        while True:
            message = await self._caller.receive()
            self._seen = self._clock()
            own_id = ""
            try:
                event = socket_events.callers(message.data)
                own_id = event.id
                if self._caller.stopping.is_set() and event.type == socket_events.CREATE:
                    raise GatewayBusy("The gateway is about to stop: connect again.")
                outgoing = await self._conversation.outgoing(event)
            except GatewayError as error:
                if error.status in (426, 501):
                    return _endings.refused(error)
                await self._report(error, own_id)
            else:
                await self._pin.send(Message(outgoing, message.binary))

    async def _from_backend(self) -> Ending:
        conversation = self._conversation
        while True:
            message = await self._pin.receive()
            if isinstance(message, Ending):
                return message
            self._seen = self._clock()
            await conversation.incoming(message.data)
            try:
                await self._caller.send(message)
            except UnicodeDecodeError:
                return _endings.NO_TEXT
            if not conversation.turns.under_way:
                if conversation.over is not None:
                    return _endings.refused(conversation.over)
                if self._caller.stopping.is_set():
                    return _endings.STOPS

    async def _watch(self) -> Ending:
        """Wait for the end of its time, of a silence that is too long, of its credentials, or of the server."""
        ends, recheck = self._clock() + self._timeouts.socket, self._clock() + RECHECK_EVERY
        while True:
            under_way = self._conversation.turns.under_way
            patience = self._timeouts.stream if under_way else self._timeouts.socket_idle
            idle, now = self._seen + patience, self._clock()
            if now >= ends:
                return _endings.limit_reached(self._timeouts.socket / 60)
            if now >= idle:
                return _endings.idle(patience)
            if now >= recheck:
                recheck = now + RECHECK_EVERY
                try:
                    await self._check_credentials()
                except GatewayError as error:
                    return _endings.refused(error)
            if self._caller.stopping.is_set() and not under_way:
                return _endings.STOPS
            await self._sleep(min(ends, idle, recheck) - self._clock())

    async def _sleep(self, seconds: float) -> None:
        """Wait, or until the server is about to stop."""
        if self._caller.stopping.is_set():
            await asyncio.sleep(min(seconds, 1.0))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._caller.stopping.wait(), max(seconds, 0.0))

    async def _check_credentials(self) -> None:
        """Check that the caller may still use the connection, with the rights that it has now."""
        admitted = self._admitted
        consumer = await self._admission.again(admitted.headers, admitted.address)
        if consumer is not None:
            await self._pin.check(consumer, admitted.call)
            self._conversation.consumer = consumer

    async def _report(self, error: GatewayError, own_id: str) -> None:
        """Report to the caller why its event does not pass, or why the connection ends."""
        self._errors += 1
        request_id = self._admitted.received.request_id
        operation, number = self._admitted.call.operation, f"{request_id}_{self._errors}"
        event = socket_events.error(operation, error, error_body(error, request_id, "openai"), own_id, number)
        await self._caller.send(Message(event, binary=False))

    async def _end(self, ending: Ending) -> None:
        for turn in self._conversation.turns.rest():
            turn.cut(ending.ended)
        if not ending.by_caller:
            with contextlib.suppress(CallerClosed, TimeoutError):
                async with asyncio.timeout(_LAST_EVENT):
                    if ending.error is not None:
                        await self._report(ending.error, "")
                    await self._caller.close(ending.code, ending.reason)
        await self._pin.close(ending.code, ending.fault)
