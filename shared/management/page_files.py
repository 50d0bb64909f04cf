"""The page: static files that a browser keeps for as long as their content is the same.

`GET /gateway/` names them under one digest of all of them, so modules import each other by relative paths, nothing is
built, and a new version is fetched as a whole. Nothing is read before the first visit.
"""

import base64
import functools
import gzip
import hashlib
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from starlette.responses import Response

from shared.errors import UnknownPath
from shared.management.routes import ManagementRequest, Route

_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_IMPORTS = {"preact": "vendor/preact.mjs", "preact/hooks": "vendor/hooks.mjs", "htm": "vendor/htm.mjs"}
_LATER = {"oauth4webapi": "vendor/oauth4webapi.mjs"}  # imported when somebody needs it
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"
_SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class _Files(msgspec.Struct, frozen=True):
    """`version`: the digest of all files. Each as it is and gzipped. `inline`: the digest of the one inline script, in
    the words of a Content-Security-Policy."""

    version: str
    index: tuple[bytes, bytes]
    others: Mapping[str, tuple[bytes, bytes]]
    inline: str


class PageRoutes:
    """The page and its files, open to anybody: they hold no data, and their users sign in. `authority`: the
    origin beside the gateway's own that the page may ask; "": none."""

    def __init__(self, authority: str = "") -> None:
        self._authority = authority

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/gateway", "anyone", self._index),
            Route("GET", "/gateway/page/{version}/{name}", "anyone", self._file),
            Route("GET", "/gateway/page/{version}/{folder}/{name}", "anyone", self._file),
        )

    async def _index(self, request: ManagementRequest) -> Response:
        files = _files()
        policy = _policy(files.inline, self._authority)
        headers = {"cache-control": "no-cache", "content-security-policy": policy}
        return _answer(files.index, "text/html; charset=utf-8", request, headers)

    async def _file(self, request: ManagementRequest) -> Response:
        files, parameters = _files(), request.parameters
        name = "/".join(filter(None, (parameters.get("folder"), parameters["name"])))
        content = files.others.get(name) if parameters["version"] == files.version else None
        if content is None:
            raise UnknownPath("This file is no longer part of the page. Reload the page.")
        kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return _answer(content, kind, request, {"cache-control": _FOR_EVER})


def _answer(
    content: tuple[bytes, bytes], kind: str, request: ManagementRequest, headers: Mapping[str, str]
) -> Response:
    whole, packed = content
    sent = {**_SAFE, **headers, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", "") and len(packed) < len(whole):
        return Response(packed, media_type=kind, headers={**sent, "content-encoding": "gzip"})
    return Response(whole, media_type=kind, headers=sent)


@functools.cache
def _files() -> _Files:
    contents = {
        path.relative_to(_FOLDER).as_posix(): path.read_bytes() for path in sorted(_FOLDER.rglob("*")) if path.is_file()
    }
    version = hashlib.sha256(b"".join(name.encode() + content for name, content in contents.items())).hexdigest()[:16]
    base = f"/gateway/page/{version}/"
    imports = msgspec.json.encode(
        {"imports": {name: base + path for name, path in (_IMPORTS | _LATER).items()}}
    ).decode()
    own = [name for name in contents if name.endswith(".js") and not name.startswith("vendor/")]
    first = [f'<link rel="modulepreload" href="{base}{name}">' for name in (*_IMPORTS.values(), *own)]
    page = contents.pop(_INDEX).decode()
    page = page.replace("{imports}", imports).replace("{preload}", "\n".join(first)).replace("{base}", base)
    packed = {name: (content, gzip.compress(content, mtime=0)) for name, content in contents.items()}
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    return _Files(version, (page.encode(), gzip.compress(page.encode(), mtime=0)), packed, f"'sha256-{digest}'")


def _policy(inline: str, authority: str) -> str:
    return (
        f"default-src 'none'; script-src 'self' {inline}; style-src 'self'; img-src 'self' data:; "
        f"connect-src {' '.join(filter(None, ("'self'", authority)))}; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
