"""Child processes of the local run: each in its own process group with a log file, and none left orphaned."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# A shell that reads process group ids from a pipe. If the launcher is killed (SIGKILL), the pipe closes and the shell
# ends the groups, including grandchildren.
WATCHDOG = """
while read -r group; do groups="$groups -$group"; done
[ -n "$groups" ] || exit 0
kill -s INT -- $groups
sleep 3
kill -s KILL -- $groups
"""


class Refused(Exception):
    """The local run cannot start or continue. The message says why and what to do."""


class Child:
    """A started program. Its standard output and error go to the file `log`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def last_lines(self, count: int = 15) -> str:
        lines = self.log.read_text(errors="replace").rstrip().splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:])

    def stop(self, patience: float = 5.0) -> None:
        """Interrupt the process group, wait, and kill what is left.

        SIGINT, because Azurite's table service saves its data on no other signal.
        """
        self._signal(signal.SIGINT)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass  # the group has ended already
        except PermissionError:
            pass  # macOS raises this for a group of zombies


class Children:
    """All programs of one run. Leaving the `with` block stops them, the latest first."""

    def __init__(self, folder: Path, logs: Path, inherited: Sequence[int] = ()) -> None:
        """`folder`: working directory. `inherited`: descriptors that stay open if the launcher is killed (a lock)."""
        self.folder = folder
        self.logs = logs
        self.started: list[Child] = []
        self._inherited = inherited

    def __enter__(self) -> "Children":
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._inherited,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self.started):
            child.stop()
        self._watchdog.kill()
        self._watchdog.communicate()

    def start(self, name: str, command: Sequence[str | Path], environ: Mapping[str, str] = os.environ) -> Child:
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the launcher, which stops all in order
            )
        child = Child(name, process, log)
        self.started.append(child)
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(b"%d\n" % process.pid)
        self._watchdog.stdin.flush()
        return child

    def check(self) -> None:
        """Raises Refused if a program has ended."""
        for child in self.started:
            if (code := child.process.poll()) is not None:
                log, name = os.path.relpath(child.log, self.folder), child.name.capitalize()
                raise Refused(f"{name} ended unexpectedly (exit code {code}). The end of {log}:\n{child.last_lines()}")

    def wait_for[T](self, what: str, ready: Callable[[], T | None], seconds: float) -> T:
        """Poll `ready` until it returns a value. Raises Refused if a program ends or the time is up."""
        deadline = time.monotonic() + seconds
        while (value := ready()) is None:
            self.check()
            if time.monotonic() > deadline:
                logs = os.path.relpath(self.logs, self.folder)
                raise Refused(f"{what} was not ready after {seconds:.0f} seconds: see the logs in {logs}.")
            time.sleep(0.03)
        return value

    def wait_for_port(self, what: str, port: int, seconds: float) -> None:
        self.wait_for(what, lambda: is_listening(port) or None, seconds)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def port_is_free(port: int) -> bool:
    """True if a program can listen on this port of 127.0.0.1."""
    if is_listening(port):  # macOS lets two programs listen on one port if only one names the address
        return False
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port below those that systems give to connections, one of which could take it before the program listens."""
    while not port_is_free(port := secrets.choice(range(10_000, 32_768))):
        pass
    return port
