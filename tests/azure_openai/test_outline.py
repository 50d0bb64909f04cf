"""The outline of a large body: the same values without long texts, in any pieces, and the bounds of its structure."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.azure_openai.outline import PIECE, Outline
from shared.azure_openai.references import in_request
from shared.errors import InvalidRequest
from shared.types import Reference

TEXTS = st.text(st.characters(codec="utf-8"), max_size=9) | st.sampled_from(['\\"', "\\", '"', "x" * 300, "\\" * 301])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def outlined(*pieces: bytes) -> Outline:
    outline = Outline()
    for piece in pieces:
        outline.feed(piece)
    return outline


def shortened(value: Any) -> Any:
    """The value with `-` for every text that is long in JSON, where quotes and backslashes are long escapes."""
    if isinstance(value, str):
        written = json.dumps(value)[1:-1].replace("\\\\", "\\u005c").replace('\\"', "\\u0022")
        return "-" if len(written) > 256 else value
    if isinstance(value, list):
        return [shortened(inner) for inner in value]
    if isinstance(value, dict):
        return [(shortened(key), shortened(inner)) for key, inner in value.items()]
    return value


@given(value=JSON, cuts=st.sets(st.integers(0, 2000), max_size=8), compact=st.booleans())
def test_an_outline_has_the_same_values_without_long_texts(value: Any, cuts: set[int], compact: bool) -> None:
    body = json.dumps(value, separators=(",", ":") if compact else None).encode()
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    outline = outlined(*(body[start:end] for start, end in itertools.pairwise(places)))
    assert json.loads(outline.take(), object_pairs_hook=list) == shortened(value)


def test_a_byte_order_mark_is_no_part_of_an_outline() -> None:
    assert outlined(b"\xef\xbb\xbf{}").take() == "{}"


def test_ids_are_found_in_an_outline() -> None:
    content = [{"type": "input_file", "file_id": "file-abcdef", "filename": "é" * 4000}]
    body = json.dumps({"input": [{"role": "user", "content": content}]}).encode()
    objects, _ = in_request(b"", "responses.create", outlined(body[:1000], body[1000:]))
    assert objects == (Reference("file", "file-abcdef"),)


REFUSED = {
    "a long key": b'{"' + b"k" * 5000 + b'" : 1}',
    "a long key in pieces": b'{"' + b"k" * 300_000 + b'"' + b" " * 300_000 + b":1}",
    "keys": b"{" + b'"k":1,' * 100_001,
    "empty objects": b"[" + b"{}," * 100_001,
    "empty lists": b"[" + b"[]," * 100_001,
    "nulls": b"[" + b"null," * 250_001,
    "deep": b"[" * 257,
    "deep behind shallow": b"[]," * 300 + b"[" * 257,
    "deep in pieces": b"[" * 200 + b'"' + b"x" * 300_000 + b'",' + b"[" * 100,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_beyond_the_bounds_is_refused_before_anything_is_parsed(name: str) -> None:
    body = REFUSED[name]
    with pytest.raises(InvalidRequest):
        outlined(*(body[start : start + PIECE] for start in range(0, len(body), PIECE)))


PASSING = {
    "a long text": b'{"a":"' + b"k" * 300_000 + b'"}',
    "a text of JSON": b'{"a":"' + b'{},[\\":' * 200_000 + b'"}',
    "long texts in a list": b'["' + b"k" * 5000 + b'", "a", "b"]',
    "deep enough": b"[" * 256 + b"]" * 256,
    "siblings": b"[" + b"[]," * 99_998 + b"[]]",
}


@pytest.mark.parametrize("name", PASSING)
def test_a_body_within_the_bounds_passes(name: str) -> None:
    body = PASSING[name]
    outline = outlined(*(body[start : start + PIECE] for start in range(0, len(body), PIECE)))
    assert len(outline.take()) <= len(body)


def test_the_tokens_of_embeddings_are_not_counted() -> None:
    outline = Outline(counts_values=False)
    for _ in range(10):
        outline.feed(b"1," * 100_000)
