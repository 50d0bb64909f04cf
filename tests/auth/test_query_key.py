"""Keys in the query, which go no further."""

import pytest

from shared.auth.query_key import parted


@pytest.mark.parametrize(
    ("query", "rest", "key"),
    [
        (b"subscription-key=tg_1", b"", "tg_1"),
        (b"api-version=2024-10-21&subscription-key=tg_1", b"api-version=2024-10-21", "tg_1"),
        (b"Subscription-Key=a&x=%26&subscription-key=b&y", b"x=%26&y", "a"),
        (b"subscription%2Dkey=tg_1%3Bproduct%3Dlab", b"", "tg_1;product=lab"),
        (b"%73ubscription-key=a", b"", "a"),
        (b"subscription-key=&subscription-key=b", b"", "b"),
        (b"subscription-key", b"", ""),
        (b"api-version=1&a=%20", b"api-version=1&a=%20", ""),
        (b"my-subscription-key=a", b"my-subscription-key=a", ""),
        (b"", b"", ""),
    ],
)
def test_every_key_is_taken_out_and_the_first_one_counts(query: bytes, rest: bytes, key: str) -> None:
    assert parted(query) == (rest, key)
