"""Calls as parsed from requests, for tests of what comes after parsing."""

from typing import Any

import msgspec

from shared.azure_openai import operations, requests
from shared.types import Call

CLAUDES_CLASSES = {  # of the simulator's charge -> of the ledger's rows
    "input_tokens": "e_input",
    "cached_tokens": "e_cached",
    "cache_write_tokens": "e_cache_write",
    "cache_write_1h_tokens": "e_cache_write_1h",
    "output_tokens": "e_output",
    "reasoning_tokens": "e_reasoning",
    "web_searches": "e_web_search",
}


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Call:
    """The call of a request to `path`, with the body as JSON."""
    data = b"" if body is None else msgspec.json.encode(body)
    return requests.parse_call(operations.match(method, path), "", {}, data)
