"""Azurite for the tests: free ports, nothing kept, gone at the end."""

import contextlib
import copy
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from local.azurite import ACCOUNT, KEY, command, connection_string
from local.processes import free_port

_PATIENCE = 30.0  # seconds


_ACCOUNTS = [ACCOUNT, *(f"account{number}" for number in range(1000))]


class Azurite:
    """A running table service; with `blobs`, a blob service, too. `apart` has another account of it."""

    def __init__(self, *, blobs: bool = False) -> None:
        ports = {name: free_port() for name in (("table", "blob", "queue") if blobs else ("table",))}
        self.port = ports["table"]
        self._ports = ports
        self._accounts = iter(_ACCOUNTS)
        self.connection_string = connection_string(ports, next(self._accounts))
        environ = os.environ | {"AZURITE_ACCOUNTS": ";".join(f"{name}:{KEY}" for name in _ACCOUNTS)}
        self._process = subprocess.Popen(
            command(ports), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def apart(self) -> "Azurite":
        """The same service with an account that nobody has used: what reads all of it does not read other tests'."""
        other = copy.copy(self)
        other.connection_string = connection_string(self._ports, next(self._accounts))
        return other

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"Azurite ended with status {self._process.returncode} instead of starting")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if connection.recv(5) == b"HTTP/":
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Azurite did not answer within {_PATIENCE:g} s")


@contextmanager
def azurite(*, blobs: bool = False) -> Iterator[Azurite]:
    """Start the services. `local.processes.Refused` says what to do when they are not installed."""
    running = Azurite(blobs=blobs)
    try:
        running.wait_until_it_answers()
        yield running
    finally:
        running.stop()
