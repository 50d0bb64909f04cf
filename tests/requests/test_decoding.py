"""Compressed bodies: decoded in bounded pieces, in whatever pieces they arrive."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from starlette.types import Message

from shared.errors import InvalidRequest, UnsupportedEncoding
from shared.requests._decoding import _PIECE, decoded

TEXT = random.Random(1).randbytes(3_000) * 300 + b"the end"


def raw(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "two files": ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    "zlib": ("deflate", zlib.compress),
    "raw": ("identity, deflate", raw),
}


async def read(body: bytes, coding: str, size: int) -> list[bytes]:
    """The decoded pieces of a body that arrives in pieces of a size."""
    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    plain, headers = decoded(receive, {"content-encoding": coding, "content-length": str(len(body)), "x": "y"})
    assert headers == {"x": "y"}
    pieces, more = [], True
    while more:
        message = await plain()
        pieces.append(message["body"])
        more = message["more_body"]
    assert (await plain())["type"] == "http.disconnect"
    return pieces


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
async def test_a_compressed_body_is_decoded_in_bounded_pieces(name: str, size: int) -> None:
    coding, compress = CODINGS[name]
    for text in (TEXT if size > 1 else TEXT[:20_000], b"{}", bytes(_PIECE), bytes(_PIECE + 1), bytes(3 * _PIECE)):
        pieces = await read(compress(text), coding, size)
        assert b"".join(pieces) == text
        assert max(map(len, pieces)) <= _PIECE


async def test_a_body_that_is_not_there_is_empty() -> None:
    assert await read(b"", "gzip", 10) == [b""]


@pytest.mark.parametrize("size", [3, 10**9])
@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"{}", "gzip"),
        (b"{}", "deflate"),
        (gzip.compress(TEXT)[:-1], "gzip"),
        (zlib.compress(TEXT)[:-5], "deflate"),
        (gzip.compress(TEXT)[:-8] + b"12345678", "gzip"),
        (gzip.compress(TEXT) + b"{}", "gzip"),
        (zlib.compress(TEXT) + b"{}", "deflate"),
    ],
)
async def test_what_cannot_be_decoded_is_a_bad_request(body: bytes, coding: str, size: int) -> None:
    with pytest.raises(InvalidRequest, match=f"not valid {coding}"):
        await read(body, coding, size)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "aes128gcm", "\xff"])
async def test_another_encoding_is_refused_by_its_name(coding: str) -> None:
    with pytest.raises(UnsupportedEncoding) as refused:
        await read(b"{}", coding, 10)
    assert repr(coding) in refused.value.message
    assert refused.value.headers() == {"accept-encoding": "gzip, deflate"}


EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"") * 60_000),
        ("gzip", gzip.compress(b"{}") * 2000),
        ("deflate", EMPTY_BLOCK * 300_000),
        ("gzip", b"\x1f\x8b\x08" + bytes(7) + EMPTY_BLOCK * 300_000),
    ],
    ids=["empty files", "files of two bytes", "empty blocks", "empty blocks in gzip"],
)
async def test_bytes_that_nothing_comes_out_of_are_bounded(coding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="send"):
        await read(body, coding, 65_536)


async def test_a_file_of_many_that_hold_something_passes() -> None:
    text = random.Random(2).randbytes(3000)
    pieces = await read((gzip.compress(text[:100]) + gzip.compress(text) * 20) * 40, "gzip", 65_536)
    assert b"".join(pieces) == (text[:100] + text * 20) * 40
