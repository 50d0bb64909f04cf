"""The connections that each client address has to this process, within a bound.

A proxy's connections are those of many callers. So behind one that `client_address` names, each request and each
WebSocket counts for the address of its caller instead, and the proxy has no bound.
"""

import logging
import time
from collections import Counter

from starlette.types import Scope

from shared.auth.client_address import UNKNOWN, limited_network, of_client
from shared.config.document import Configuration
from shared.errors import RateLimitExceeded

STATE = "connections"  # the key under which the application gives them to the server
_NONE = ""  # what is held by those that do not count
_WARN_EVERY = 60.0  # seconds

logger = logging.getLogger("tollgate.requests")


class Connections:
    """One per process. `hits` counts what is refused, as the limits do. What is held is released exactly once."""

    def __init__(self, configuration: Configuration, hits: Counter[tuple[str, str]]) -> None:
        self.held: dict[str, int] = {}  # by address, or network
        self._hits = hits
        self._warn_at = 0.0
        self.configure(configuration)

    def configure(self, configuration: Configuration) -> None:
        """Follow a configuration. What is held stays."""
        self._most = configuration.limits.addresses.connections
        self._trusted = configuration.client_address

    def connected(self, scope: Scope) -> str:
        """Hold a connection, which has an address alone. Raises `RateLimitExceeded`."""
        return self._hold(scope) if self._trusted.header is None else _NONE

    def requested(self, scope: Scope) -> str:
        """Hold a request or a WebSocket, whose headers name the caller behind a proxy. Raises `RateLimitExceeded`."""
        return self._hold(scope) if self._trusted.header is not None else _NONE

    def released(self, held: str) -> None:
        left = self.held.get(held, 0) - 1
        if left > 0:
            self.held[held] = left
        else:
            self.held.pop(held, None)

    def _hold(self, scope: Scope) -> str:
        address = of_client(scope, self._trusted)
        if not self._most or (address == UNKNOWN and self._trusted.header is None):  # of a socket on this machine
            return _NONE
        network = limited_network(address)
        held = self.held.get(network, 0)
        if held >= self._most:
            self._warn(network, held)
            self._hits["address", "connections"] += 1
            raise RateLimitExceeded(
                f"Your address has {held} connections to this gateway or requests under way, the maximum. Close some "
                "and try again.",
                1.0,
            )
        self.held[network] = held + 1
        return network

    def _warn(self, network: str, held: int) -> None:
        if time.monotonic() >= self._warn_at:
            self._warn_at = time.monotonic() + _WARN_EVERY
            logger.warning(
                "%s has %d connections, and more are refused: limits.addresses.connections bounds them. If it is a "
                "proxy of yours, name its header in client_address.",
                network,
                held,
            )
