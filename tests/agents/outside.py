"""The rest of the world as an agent sees it: a proxy that notes the hosts it is asked for, and refuses them all."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_REFUSAL = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Outside:
    """`url`: the address of the proxy. `asked`: the hosts and paths that were asked for."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.asked: set[str] = set()
        self._listener = listener

    def serve(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._refuse, args=(connection,), daemon=True).start()

    def _refuse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(10)
            words = connection.recv(65_536).split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            self.asked.update(words[1:2])
            connection.sendall(_REFUSAL)


@contextmanager
def outside() -> Iterator[Outside]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = Outside(listener)
        threading.Thread(target=refusing.serve, daemon=True).start()
        yield refusing
