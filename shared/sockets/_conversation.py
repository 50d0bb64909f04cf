"""The events of one connection: filters those of the caller, and follows responses in those of the backend."""

from collections.abc import Callable

import msgspec

from shared.azure_openai import backend_requests, socket_events
from shared.azure_openai.socket_events import BackendEvent, CallerEvent
from shared.azure_openai.sockets import CREATE_RESPONSE, REALTIME, TRANSCRIPTION
from shared.errors import GatewayError, InvalidRequest, RateLimitExceeded
from shared.limits.reservation import Reservation
from shared.requests.arrival import ReceivedRequest
from shared.requests.reading import read_event, read_names
from shared.sockets._pin import Pin
from shared.sockets._turns import MOST_WAITING, Turn, Turns
from shared.sockets.admission import AdmittedConnection, SocketAdmission, Stages
from shared.types import Call, Target, Usage


class Conversation:
    """`receive` gives a response an id and a trace, as a request gets. `over`: the limit that ran out while
    the backend made responses by itself; the connection ends with the one under way."""

    def __init__(
        self,
        admitted: AdmittedConnection,
        pin: Pin,
        admission: SocketAdmission,
        stages: Stages,
        receive: Callable[[], ReceivedRequest],
    ) -> None:
        self._connection = admitted
        self._call = admitted.call
        self._pin = pin
        self._admission = admission
        self._accounting = stages.accounting
        self._directory = stages.directory
        self._buffers = stages.buffers
        self._receive = receive
        self._last = admitted.call  # the call of the last response
        self._transcriber = ""  # the model of a realtime session that transcribes its caller's speech
        self.consumer = admitted.consumer
        self.turns = Turns(by_lane=admitted.call.operation is not REALTIME)
        self.over: GatewayError | None = None

    # --- from the caller ----------------------------------------------------------------------------------------------

    async def outgoing(self, event: CallerEvent) -> bytes:
        """Return what the backend receives for an event of the caller. Raises `GatewayError`: it may not pass."""
        creates = event.type == socket_events.CREATE
        if creates and self.turns.waiting >= MOST_WAITING:
            message = f"{MOST_WAITING} responses are waiting on this connection. Wait for one to start."
            raise RateLimitExceeded(message, 1.0)
        if creates and self._call.operation is not REALTIME:
            return await self._create(event)
        if self._pin.target is None:
            raise InvalidRequest("Expected response.create as the first event: its model decides the backend.")
        if socket_events.names_something(self._call, event):
            named = await read_names(self._call, event, self._buffers.open(self.consumer.id))
            await self._pin.check(self.consumer, self._foreign(named))
        if creates:
            target = self._pin.target
            call = msgspec.structs.replace(self._call, input_estimate=self.turns.context)
            received = self._receive()
            reservation = await self._reserve(received, call)
            self.turns.expect(self._open(received, call, reservation, target, target.model, event.id), event.lane)
        return event.body

    async def _create(self, event: CallerEvent) -> bytes:
        """Ask for a response as a separate call, with its model, its objects and its limits."""
        received, headers = self._receive(), self._connection.headers
        call = await read_event(CREATE_RESPONSE, headers, event.body, self._buffers.open(self.consumer.id))
        if call.background:
            raise InvalidRequest("A response on a WebSocket cannot run in the background.", param="background")
        call = self._foreign(self._admission.of_user(call, self.consumer, headers))
        call = msgspec.structs.replace(call, stream=True)
        reservation = await self._reserve(received, call)
        try:
            target, model = await self._pin.choose(self.consumer, call)
        except BaseException as error:
            self._admission.limiter.release(reservation)
            if isinstance(error, GatewayError):
                self._accounting.refused_call(received, error, self.consumer, self._admission.known(call.model))
            raise
        self.turns.expect(self._open(received, call, reservation, target, model, event.id), event.lane)
        return backend_requests.upstream_request(call, target).body

    def _foreign(self, call: Call) -> Call:
        """The call without the responses of this connection among its objects: the backend keeps those for it, stored
        or not."""
        made = self.turns.made
        if not any(made(reference.id) for reference in call.references):
            return call
        return msgspec.structs.replace(call, references=tuple(one for one in call.references if not made(one.id)))

    async def _reserve(self, received: ReceivedRequest, call: Call) -> Reservation:
        try:
            return await self._admission.limiter.reserve_within(self.consumer, call, self._connection.held)
        except GatewayError as error:
            self._accounting.refused_call(received, error, self.consumer, self._admission.known(call.model))
            raise

    def _open(
        self,
        received: ReceivedRequest,
        call: Call,
        reservation: Reservation,
        target: Target,
        model: str,
        event_id: str = "",
    ) -> Turn:
        """Put a response on record."""
        self._last = call
        record = self._accounting.open(received, self.consumer, call, reservation, model)
        return Turn(record, target, self._directory, event_id)

    # --- from the backend ---------------------------------------------------------------------------------------------

    async def incoming(self, message: bytes) -> None:
        """Read an event of the backend before the caller receives it: the end of a response is on record then."""
        event = socket_events.backends(message)
        if event.begins:
            await self._begin(event)
        turn = self.turns.of(event)
        if turn is not None:
            turn.read(event, message)
        if event.ends and turn is not None:
            self.turns.ended(event)
            await turn.end(self._usage(turn))
        elif event.type == "error" and (refused := self.turns.refused(event)) is not None:
            await refused.end(Usage(), event.status)
        elif event.transcribes and (usage := socket_events.transcription(message)) is not None:
            await self._transcribed(usage)
        elif event.sets:
            self._transcriber = socket_events.transcriber(message) or self._transcriber

    def _usage(self, turn: Turn) -> Usage:
        """The usage of a whole response. A realtime one that reports none, as one that has failed, was not charged."""
        reported = turn.reported()
        if reported is None:
            return Usage() if self._call.operation is REALTIME else turn.estimate()
        return reported

    async def _begin(self, event: BackendEvent) -> None:
        former = self.turns.ended(event)
        if former is not None:  # its lane goes on with the next, without having said its end
            former.cut("cut")
        target = self._pin.target
        if self.turns.begin(event) or target is None:
            return
        # The backend makes one by itself: it has heard the end of the caller's speech, or goes on with a steered one.
        call = msgspec.structs.replace(self._last, input_estimate=self.turns.context)
        received = self._receive()
        reservation = await self._begun(received, call)
        self.turns.adopt(event, self._open(received, call, reservation, target, target.model))

    async def _transcribed(self, usage: Usage) -> None:
        """Record the transcription of a caller's speech, which another model makes and Azure charges by itself."""
        if (pinned := self._pin.target) is None:
            return
        backend, words = pinned.backend, self._transcriber
        model = backend.by_deployment.get(words, words) or pinned.model
        call = msgspec.structs.replace(self._call, operation=TRANSCRIPTION, model=model)
        received = self._receive()
        reservation = await self._begun(received, call)
        turn = self._open(received, call, reservation, Target(backend, model, words or pinned.deployment), model)
        self._last = self._call
        self.turns.count += 1
        await turn.end(usage)

    async def _begun(self, received: ReceivedRequest, call: Call) -> Reservation:
        """The reservation of what the backend has begun by itself; a limit that has run out ends the connection."""
        try:
            return await self._reserve(received, call)
        except GatewayError as error:
            self.over = error
            limiter = self._admission.limiter
            return await limiter.reserve_within(self.consumer, call, self._connection.held, begun=True)
