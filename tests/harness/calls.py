"""Calls as parsed from requests, for tests of what comes after parsing."""

from typing import Any

import msgspec

from shared.azure_openai import operations, requests
from shared.types import Call


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Call:
    """The call of a request to `path`, with the body as JSON."""
    data = b"" if body is None else msgspec.json.encode(body)
    return requests.parse_call(operations.match(method, path), "", {}, data)
