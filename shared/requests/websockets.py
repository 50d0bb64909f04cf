"""The refusal of an upgrade to a WebSocket."""

from shared.errors import GatewayError, NotSupported, UpgradeRequired

_NO_WEBSOCKETS = (
    "This gateway serves no WebSockets, because its platform cannot pass them on. Get a client secret from "
    "POST /v1/realtime/client_secrets and connect to the backend, or use HTTP with event streams."
)


def websocket_refused(path: str) -> GatewayError:
    """The refusal of an upgrade to a WebSocket."""
    if path.rstrip("/").endswith("/responses"):
        return UpgradeRequired("This gateway serves responses over HTTP only: send POST, with `stream` for events.")
    return NotSupported(_NO_WEBSOCKETS)
