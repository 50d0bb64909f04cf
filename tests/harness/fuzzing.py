"""Requests that nobody would send: every operation with paths, headers and bodies bent at random."""

import http.client
import json
import random
import re
import time
from collections import Counter
from typing import Any

from shared.azure_openai.operations import OPERATIONS
from shared.types import Operation
from tests.harness.gateway_process import GatewayProcess

_ODD = (
    "",
    "..",
    ".",
    "%2e%2e",
    "%00",
    "a" * 600,
    "é",
    "x/y",
    "id_1?x=1",
    "*",
    "%",
    "file-1;v=1",
    "\\",
    "thread_1",
    "-",
)
_FIELDS = (
    "model", "input", "messages", "stream", "store", "background", "previous_response_id", "conversation", "tools",
    "tool_resources", "file_ids", "file_id", "input_file_id", "metadata", "max_tokens", "max_output_tokens", "session",
    "assistant_id", "thread", "training_file", "prompt", "stream_options", "container", "purpose", "limit",
)  # fmt: skip
_MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "nothing", "", "o4-mini", "spare-000")


def fuzz(gateway: GatewayProcess, key: str, seconds: float, seed: int) -> Counter[int]:
    """Send for so long; how often each status came. Raises `AssertionError` for a 500 and for a traceback."""
    rng = random.Random(seed)
    statuses: Counter[int] = Counter()
    before, deadline = len(gateway.logs()), time.monotonic() + seconds
    while time.monotonic() < deadline:
        method, path, headers, body = request(rng, key)
        try:
            answer = gateway.request(method, path, body, headers)
        except (http.client.HTTPException, OSError, ValueError):
            statuses[0] += 1  # no HTTP at all, as the server or the library found
            continue
        statuses[answer.status] += 1
        assert answer.status != 500, (seed, method, path, headers, body, answer.body)
        if answer.status >= 400 and method != "HEAD" and answer.headers.get("x-gateway-request-id"):
            assert "error" in answer.json(), (seed, method, path, answer.body)
    assert "Traceback" not in gateway.logs()[before:], gateway.logs()[-5000:]
    return statuses


def request(rng: random.Random, key: str) -> tuple[str, str, dict[str, str], bytes | None]:
    operation = rng.choice(OPERATIONS)
    method = (
        operation.method if rng.random() < 0.9 else rng.choice(("GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
    )
    headers = {"authorization": f"Bearer {key}"} if rng.random() < 0.97 else {"api-key": rng.choice(_ODD[:3])}
    body: bytes | None = None
    if operation.body == "multipart" and rng.random() < 0.7:
        headers["content-type"], body = form(rng)
    elif operation.body != "none" or rng.random() < 0.05:
        headers["content-type"] = rng.choice(
            ("application/json", "application/json", "text/plain", "multipart/form-data")
        )
        body = damaged(rng, json.dumps(value(rng, 0)).encode())
    if rng.random() < 0.2:
        name = rng.choice(("upgrade", "x-gateway-heartbeat", "traceparent", "accept", "systemId", "openai-beta", "te"))
        headers[name] = rng.choice(("websocket", "off", "", "x" * 300, "\xff", "a,b;q=0"))
    return method, path_of(rng, operation), headers, body


def path_of(rng: random.Random, operation: Operation) -> str:
    def fill(match: re.Match[str]) -> str:
        return rng.choice((*_ODD, f"{match[1]}_{rng.randrange(9)}abcdef"))

    path = re.sub(r"\{(\w+)\}", fill, operation.path)
    prefix = rng.choice(("/v1/", "/openai/v1/", "/openai/", "/openai/deployments/gpt-4o/", "/gateway/", "/"))
    query = rng.choice(
        ("", "", "?api-version=2024-10-21", "?limit=-1", "?after=x&limit=3", "?%ff=%", "?stream=true", "?a=b&a")
    )
    return (
        (prefix + path + rng.choice(("", "", "", "/", "/gpt-4o")) + query).encode().decode("latin-1").replace(" ", "")
    )


def value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(9 if depth < 4 else 5)
    if kind >= 6 or depth == 0:
        names = rng.sample(_FIELDS, rng.randrange(1, 7))
        fields = {name: value(rng, depth + 1) for name in names}
        if depth == 0 and rng.random() < 0.8:
            fields["model"] = rng.choice(_MODELS)
        return fields
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return rng.choice(
        (None, True, False, -1, 0, 1e300, 2**70, "", "file-1", "resp_1", "x" * 3000, "\ud800", "😀", "auto")
    )


def damaged(rng: random.Random, body: bytes) -> bytes:
    if rng.random() < 0.7:
        return body
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice((b"", b"\x00", b"\xff\xfe", b"{" * 2000, b'"', b",")) + body[at + rng.randrange(3) :]


def form(rng: random.Random) -> tuple[str, bytes]:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (
            rng.choice((b"model", b"file", b"purpose", b"file_id", b"")),
            rng.choice((b"gpt-4o", b"", b"x" * 5000, b"\xff")),
        )
        for _ in range(rng.randrange(4))
    ]
    body = damaged(rng, b"".join(parts) + rng.choice((b"--b--\r\n", b"", b"--b")))
    return rng.choice(("multipart/form-data; boundary=b", "multipart/form-data; boundary=", "multipart/mixed")), body
