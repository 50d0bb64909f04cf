"""The lines of a batch: whatever may name an object of another caller is noticed."""

import json
from typing import Any

import pytest

from shared.azure_openai.batch_lines import BatchLines, BatchSize

BODY: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello \u2028"}]}
FILE = {"type": "file", "file": {"file_id": "file-foreign"}}


def line(url: str = "/v1/chat/completions", body: Any = None, **more: Any) -> bytes:
    return json.dumps({"custom_id": "1", "method": "POST", "url": url, "body": body or BODY, **more}).encode() + b"\n"


def content(*parts: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": list(parts)}]}


EVIL = line(body=content(FILE))
CLEAN = {
    "one line": line(),
    "no end": line()[:-1],
    "Windows": line().replace(b"\n", b"\r\n") * 3,
    "a byte order mark": b"\xef\xbb\xbf" + line(),
    "blank lines": b"\n" + line() + b"\n\n" + line(),
    "embeddings": line("/embeddings", {"model": "embed", "input": "x"}),
    "an id in a text": line(body=content({"type": "text", "text": EVIL.decode()})),
    "a long text": line(body=content({"type": "text", "text": EVIL.decode() + "x" * 1_000_000})),
    "as many as Azure takes, with blank lines between": b"\n" * 199_998 + line(),
}
UNCLEAN = {
    "a file": EVIL,
    "in the last of many": line() * 500 + EVIL[:-1],
    "a key with escapes": EVIL.replace(b"file_id", b"\\u0066ile_id"),
    "a key in upper case": EVIL.replace(b"file_id", b"FILE_ID"),
    "a spoken answer": line(body={"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    "responses": line("/v1/responses", {"model": "gpt-4o", "input": "x"}),
    "an unknown endpoint": line("/v1/files"),
    "no endpoint": line().replace(b'"url"', b'"uri"'),
    "two bodies": line().replace(b'"custom_id"', b'"body": {}, "custom_id"'),
    "two bodies by case": line().replace(b'"custom_id"', b'"Body": {}, "custom_id"'),
    "a key twice inside": EVIL.replace(b'"file_id"', b'"file_id": 1, "file_id"'),
    "no JSON": b"hello\n",
    "a list": b"[]\n",
    "no body": b'{"custom_id": "1", "url": "/v1/chat/completions"}\n',
    "a line within a line": line().replace(b"[", b"[\r" + EVIL[:-1] + b"\r", 1),
    "a line within a text": line(body=content("\u2028")).replace(b"\\u2028", "\u2028{}\u2028".encode()),
    "another encoding": EVIL.decode().encode("utf-16"),
    "a line that is too long": line(body=content("x" * 5_000_000)),
    "a file behind a long text": line(body=content("x" * 1_000_000, FILE)),
    "a line of a million objects": line(body=content(FILE)).replace(b"[{", b"[" + b"{}," * 1_000_000 + b"{", 1),
    "more lines than Azure takes": b"\n" * 200_001 + line(),
}


@pytest.mark.parametrize("size", [1, 100, 65_536])
@pytest.mark.parametrize("kind", [*CLEAN, *UNCLEAN])
def test_lines_that_may_name_an_object_are_noticed(kind: str, size: int) -> None:
    data = {**CLEAN, **UNCLEAN}[kind]
    if len(data) > 100_000:
        size = max(size, 1000)
    lines = BatchLines()
    for start in range(0, len(data), size):
        lines.feed(data[start : start + size])
    assert [lines.finish() is not None for _ in range(2)] == [kind in CLEAN] * 2


def test_the_size_of_a_batch_is_that_of_its_bodies_and_their_answers() -> None:
    bodies = [BODY, {"model": "embed", "input": "x"}, {**BODY, "model": 7}]
    data = line() + line("/embeddings", bodies[1]) + line(body=bodies[2])
    lines = BatchLines()
    lines.feed(data)
    assert lines.finish() == BatchSize(sum(len(json.dumps(body)) for body in bodies), 2, "gpt-4o-mini")
