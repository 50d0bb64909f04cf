"""Calls, and the events that answer them."""

import json
from typing import Any

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.types import Call, Usage

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 5, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(input_tokens=20, output_tokens=9, cached_input_tokens=4, cache_write_tokens=5, reasoning_tokens=3)


def call(path: str = "/v1/chat/completions", **fields: Any) -> Call:
    body = json.dumps({"model": "m", **fields}).encode()
    return parse_call(match("POST", path), "", {}, body)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}], usage=None)


def typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-4o-2024-11-20",
    "service_tier": "priority",
    "usage": {
        "input_tokens": 20,
        "output_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 3},
    },
}
OF_RESPONSE = Usage(20, 9, 4, reasoning_tokens=3, model="gpt-4o-2024-11-20", service_tier="priority")
