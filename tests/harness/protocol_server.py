"""An app behind uvicorn with the gateway's protocol, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from shared.edges.http_protocol import Protocol
from tests.harness.patience import PATIENCE


@contextmanager
def served(app: Any, **options: Any) -> Iterator[tuple[str, int]]:
    """The address of a server with this app. `options`: of uvicorn's configuration."""
    given: Any = {"ws": "none", "lifespan": "off", "log_level": "critical", "access_log": False, **options}
    config = uvicorn.Config(app, port=0, http=Protocol, **given)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield host, port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
