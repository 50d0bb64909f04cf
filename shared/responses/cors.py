"""Cross-origin calls: lets pages of the configured origins call the gateway from a browser."""

from collections.abc import Iterable, Mapping

from starlette.responses import Response

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_CACHED_FOR = "7200"  # seconds that a browser may keep the answer; Chromium's most
# Headers that pages may read anyway, and headers for HTTP itself.
_NEEDS_NO_EXPOSURE = frozenset(
    ("cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma")
) | frozenset(("connection", "date", "server", "set-cookie", "transfer-encoding", "vary"))


class Cors:
    """The configured origins; `*` is any. Without origins browsers get no permission, which is the default."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def preflight(self, method: str, headers: Mapping[str, str]) -> Response | None:
        """The answer to a browser that asks for permission, which sends no key; None for any other request."""
        if method != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        origin = headers.get("origin", "")
        if not self._allows(origin):
            return None
        allowed = {"access-control-allow-methods": _METHODS, "access-control-max-age": _CACHED_FOR}
        if requested := headers.get("access-control-request-headers"):
            allowed["access-control-allow-headers"] = requested
        return Response(status_code=204, headers=allowed)

    def expose(self, origin: str, response: Response) -> None:
        """Let a page of an allowed origin read the response with its headers."""
        if not self._origins:
            return
        response.headers.add_vary_header("origin")
        if self._allows(origin):
            names = dict.fromkeys(name for name in response.headers if name not in _NEEDS_NO_EXPOSURE)
            exposed = [name for name in names if not name.startswith("access-control-")]
            response.headers["access-control-allow-origin"] = origin
            response.headers["access-control-expose-headers"] = ", ".join(exposed)

    def _allows(self, origin: str) -> bool:
        return bool(origin) and ("*" in self._origins or origin.lower() in self._origins)
