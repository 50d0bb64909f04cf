"""The handshake of a WebSocket, as a request asks for it (RFC 6455, section 4.2.1). Pure."""

import base64
from collections.abc import Mapping

from shared.errors import GatewayError, HeadTooLarge, InvalidRequest

_LONGEST_URL = 8000  # bytes
_KEY_BYTES = 16


def fault(method: str, url: bytes, headers: Mapping[bytes, bytes], *, waits: bool) -> GatewayError | None:
    """The reason why an upgrade is refused before the app sees it, None if it is not. `waits`: a request before it on
    the same connection has no whole answer yet."""
    if method != "GET" or not _is_handshake(headers):
        return InvalidRequest(
            "The upgrade to a WebSocket is not valid: expected GET with Sec-WebSocket-Version: 13 and a "
            f"Sec-WebSocket-Key of {_KEY_BYTES} bytes in base64."
        )
    if len(url) > _LONGEST_URL:
        return HeadTooLarge(f"The path and the query are too long: expected at most {_LONGEST_URL} bytes.")
    if waits:
        return InvalidRequest("An upgrade to a WebSocket has to wait for the answers to the requests before it.")
    return None


def _is_handshake(headers: Mapping[bytes, bytes]) -> bool:
    try:
        key = base64.b64decode(headers.get(b"sec-websocket-key", b""), validate=True)
    except ValueError:
        return False
    return len(key) == _KEY_BYTES and headers.get(b"sec-websocket-version") == b"13" and b"host" in headers
