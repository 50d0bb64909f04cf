"""Exchanges with a server as they came over the wire, told in a form in which two of them can be compared."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
import msgspec

# What a caller of the gateway sees of an answer's headers, besides the gateway's own.
SAFE_HEADERS = (
    "content-type", "content-disposition", "location", "x-ms-region", "apim-request-id", "x-request-id",
    "x-ms-client-request-id",
)  # fmt: skip
_ANEW = ("apim-request-id", "x-request-id")  # another one each time

_PREFIX = re.compile(r"^(/openai/deployments/[^/]+|/openai/v1|/openai|/v1)")
_ID = re.compile(r"(?:[a-z]+[_-])*[0-9a-f]{32}")
_MOMENT = re.compile(r'("(?:created|expires|[a-z_]+_at)":) ?\d+')
_SEALED = re.compile(r'("encrypted_content":") ?[^"]+')
_TUNED = re.compile(r"\.ft-[0-9a-f]{8}")
# The gateway asks for the usage that ends a stream, and keeps it from a caller who did not; a null in the chunks stays.
_NO_USAGE = re.compile(r',?"usage":null')


class Exchange(msgspec.Struct, frozen=True):
    """A request and its answer. `body` has ids numbered in the order of their appearance, and no dates."""

    request: str
    status: int
    headers: dict[str, str]
    body: Any


class Recorder:
    """Takes note of what an HTTP client receives."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._ids: dict[str, str] = {}
        self._paused = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def note(self, response: httpx2.Response) -> None:
        """A hook for the answers of an `httpx2.Client`."""
        body = response.read()
        if not self._paused:
            asked = response.request
            self.add(asked.method, asked.url.path, response.status_code, response.headers, body)

    def add(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        operation = _PREFIX.sub("", path)
        safe = {name: self._plain(headers[name]) for name in SAFE_HEADERS if name in headers}
        if "location" in safe:
            safe["location"] = _PREFIX.sub("", safe["location"])
        safe |= dict.fromkeys((name for name in _ANEW if name in safe), "…")
        plain_body = self._body(headers.get("content-type", ""), body)
        self.exchanges.append(Exchange(f"{method} {self._plain(operation)}", status, safe, plain_body))

    def _body(self, content_type: str, body: bytes) -> Any:
        if body and content_type.startswith("application/json"):
            return json.loads(self._plain(body.decode()))
        if content_type.startswith("text/event-stream"):
            text = self._plain(body.decode()).replace("\r\n", "\n")
            events = [event for event in text.split("\n\n") if not event.startswith(":")]
            return [_NO_USAGE.sub("", event) if '"object":"response' not in event else event for event in events]
        try:
            return self._plain(body.decode())
        except UnicodeDecodeError:
            return body

    def _plain(self, text: str) -> str:
        """The text with ids and dates that are the same each time."""
        text = _ID.sub(self._number, text)
        return _TUNED.sub(".ft-…", _SEALED.sub(r"\1…", _MOMENT.sub(r"\g<1>0", text)))

    def _number(self, match: re.Match[str]) -> str:
        given = match[0]
        prefix = given[:-32]
        return self._ids.setdefault(given, f"{prefix}{sum(known.startswith(prefix) for known in self._ids)}")
