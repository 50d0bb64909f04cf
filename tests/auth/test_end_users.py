"""The users behind a key: who names them, and the label that usage and limits have."""

import hashlib

import pytest

from shared.auth import end_users
from shared.auth.end_users import named
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.callers import EndUsers
from shared.types import Consumer

ANNA, BEN = Consumer("anna", "a"), Consumer("ben", "b")
HEADER = EndUsers(header="X-OpenWebUI-User-Id", plain=True)


def label(
    body: str,
    settings: EndUsers | None = None,
    consumer: Consumer = ANNA,
    headers: dict[str, str] | None = None,
) -> str:
    call = parse_call(match("POST", "/v1/chat/completions"), "", {}, body.encode())
    return named(call, consumer, headers or {}, settings or EndUsers()).user


def test_a_user_is_a_hash_that_differs_between_keys() -> None:
    one = label('{"model": "m", "user": "carla@contoso.com"}')
    assert len(one) == 16
    assert set(one) <= set("0123456789abcdef")
    assert one == label('{"user": " carla@contoso.com ", "model": "m"}')
    assert one != label('{"model": "m", "user": "carla@contoso.com"}', consumer=BEN)
    assert one != label('{"model": "m", "user": "dora@contoso.com"}')


@pytest.mark.parametrize(
    ("body", "headers", "user"),
    [
        ('{"model": "m"}', {}, ""),
        ('{"model": "m", "user": "u"}', {}, "u"),
        ('{"model": "m", "user": "u", "safety_identifier": "s"}', {}, "s"),
        ('{"model": "m", "user": "u"}', {"x-openwebui-user-id": "h"}, "h"),
        ('{"model": "m", "user": "u"}', {"x-openwebui-user-id": ""}, "u"),
        ('{"model": "m", "user": 7}', {}, ""),
        ('{"model": "m", "user": null, "safety_identifier": ["x"]}', {}, ""),
        ('{"model": "m", "safety_identifier": {}, "user": "u"}', {}, "u"),
        ('{"model": "m", "user": "  "}', {}, ""),
        ('{"model": "m", "user": "%s"}' % ("x" * 2000), {}, ""),
        ('{"model": "m", "user": "J\\u00f6rg M\\u00fcller"}', {}, "Jörg Müller"),
    ],
)
def test_the_header_names_the_user_before_the_body(body: str, headers: dict[str, str], user: str) -> None:
    assert label(body, HEADER, headers=headers) == user


@pytest.mark.parametrize("name", ["*", "-", "two\\nlines", "x" * 65])
def test_a_name_that_usage_cannot_show_is_hashed_even_if_names_are_plain(name: str) -> None:
    assert len(label(f'{{"model": "m", "user": "{name}"}}', HEADER)) == 16


def test_a_header_counts_only_if_it_is_configured() -> None:
    assert label('{"model": "m"}', EndUsers(plain=True), headers={"x-openwebui-user-id": "h"}) == ""


@pytest.mark.parametrize(("length", "remembered"), [(256, True), (257, False), (30_000, False)])
def test_a_long_name_has_its_label_and_is_not_kept(length: int, *, remembered: bool) -> None:
    name = "n" * length
    end_users._remembered.cache_clear()
    labels = {label('{"model": "m"}', HEADER, headers={"x-openwebui-user-id": name}) for _ in range(2)}
    assert labels == {hashlib.sha256(f"anna\n{name}".encode()).hexdigest()[:16]}
    assert end_users._remembered.cache_info().currsize == remembered
