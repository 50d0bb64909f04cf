"""Connections of hostile callers, as raw sockets. Used by `make attack`."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.harness.system import System

CHAT = "/v1/chat/completions"


@contextmanager
def connections(running: System, number: int, sources: Sequence[str] = ("127.0.0.1",)) -> Iterator[list[socket.socket]]:
    """So many connections, from these addresses of this machine in turn."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(running.gateway.address, 30, (sources[index % len(sources)], 0))
            )
            for index in range(number)
        ]


def head_of(key: str, *headers: str, method: str = "POST", path: str = CHAT) -> bytes:
    lines = (
        f"{method} {path} HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {key}",
        "connection: close",
        *headers,
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


def status_of(caller: socket.socket, seconds: float = 30.0) -> int:
    """The status of an answer; 0: the connection was closed without one; -1: nothing came in this time."""
    caller.settimeout(seconds)
    try:
        received = caller.recv(65_536)
    except TimeoutError:
        return -1
    except ConnectionError:
        return 0
    return int(received[9:12]) if received else 0


def send_all(caller: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):  # refused on the way
        caller.sendall(data)
