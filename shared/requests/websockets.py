"""Upgrades to WebSockets: their refusal where none is served, and the credentials in their subprotocols."""

from collections.abc import Mapping, Sequence

from shared.errors import GatewayError, NotSupported, UpgradeRequired

STOPPING = "tollgate.stopping"  # the event in a scope's extensions that the server sets when it is about to stop

_NO_WEBSOCKETS = (
    "This gateway serves no WebSockets, because its platform cannot pass them on. Get a client secret from "
    "POST /v1/realtime/client_secrets and connect to the backend, or use HTTP with event streams."
)
_KEY = "openai-insecure-api-key."  # pages send no headers with an upgrade, so the key is in a subprotocol
_REALTIME_BETA = "openai-beta.realtime-v1"
_UNSPOKEN = (_KEY, "openai-beta.", "openai-organization.", "openai-project.")  # of entries that are no protocols


def websocket_refused(path: str) -> GatewayError:
    """The refusal of an upgrade to a WebSocket."""
    if path.rstrip("/").endswith("/responses"):
        return UpgradeRequired("This gateway serves responses over HTTP only: send POST, with `stream` for events.")
    return NotSupported(_NO_WEBSOCKETS)


def with_subprotocols(headers: Mapping[str, str], offered: Sequence[str]) -> dict[str, str]:
    """The headers of an upgrade with those that its subprotocols stand for. A key in a header counts first."""
    more = {}
    for name in offered:
        if name.startswith(_KEY):
            more["authorization"] = f"Bearer {name.removeprefix(_KEY)}"
        elif name == _REALTIME_BETA:
            more["openai-beta"] = "realtime=v1"
    keyed = any(name in headers for name in ("authorization", "api-key", "ocp-apim-subscription-key"))
    if keyed:
        more.pop("authorization", None)
    return {**more, **headers}


def chosen_subprotocol(offered: Sequence[str]) -> str | None:
    """The subprotocol that the gateway speaks, of those that a caller offers: pages fail if none is chosen."""
    return next((name for name in offered if not name.startswith(_UNSPOKEN)), None)
