"""The ends of connections: their close codes and the messages for callers. Pure."""

from typing import Literal, NamedTuple

from shared.errors import GatewayError, InvalidRequest

NORMAL, GOING_AWAY, NOT_GIVEN, BROKEN, POLICY, TOO_BIG, FAILED, RESTART = 1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012


class Ending(NamedTuple):
    """`code`: of the close frame for the caller. `ended`: what became of the responses under way. `error`: reported in
    an event before. `by_caller`: the caller is gone already. `fault`: what the backend did wrong, or ""."""

    code: int
    reason: str
    ended: Literal["hung_up", "cut"] = "cut"
    error: GatewayError | None = None
    by_caller: bool = False
    fault: str = ""


STOPS = Ending(RESTART, "the gateway restarts: connect again")
DEFECT = Ending(FAILED, "internal error of the gateway")
TOO_LARGE = Ending(TOO_BIG, "the backend sent a message that is too large", fault="sent a message that is too large")
NO_TEXT = Ending(FAILED, "the backend sent a text that is not UTF-8", fault="sent a text that is not UTF-8")


def by_caller(code: int) -> Ending:
    return Ending(code, "", "hung_up", by_caller=True)


def by_backend(code: int | None, reason: str) -> Ending:
    """The backend has closed the connection: the caller gets the same code. One that broke is an error of the server's
    side, after which clients connect again."""
    if code is None or code == BROKEN:
        return Ending(FAILED, "the backend broke the connection", fault="broke the WebSocket")
    return Ending(NORMAL if code == NOT_GIVEN else code if sendable(code) else FAILED, reason)


def limit_reached(minutes: float) -> Ending:
    """A connection reached its maximum duration. OpenAI and Azure end theirs with this error."""
    message = f"Connection closed after {minutes:g} minutes, the maximum. Open a new one."
    return Ending(GOING_AWAY, "maximum duration reached", error=_limit(message))


def idle(seconds: float) -> Ending:
    message = f"Connection closed after {seconds:g} seconds without a message. Open a new one when you need it."
    return Ending(GOING_AWAY, "idle", error=_limit(message))


def refused(error: GatewayError) -> Ending:
    """The caller may not go on: its key was revoked, or a limit has run out."""
    return Ending(POLICY, error.code, error=error)


def sendable(code: int) -> bool:
    """True for a code that a close frame may have (RFC 6455, section 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _limit(message: str) -> GatewayError:
    return InvalidRequest(message, code="websocket_connection_limit_reached")
