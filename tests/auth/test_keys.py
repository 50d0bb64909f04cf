"""The text of keys."""

from hypothesis import given
from hypothesis import strategies as st

from shared.auth import keys


def test_a_key_is_found_again_by_the_id_inside_it() -> None:
    text, key = keys.make("0123456789")
    assert keys.parse(text) == key
    assert key.consumer_id == "0123456789"
    assert key.digest not in text
    assert keys.make("0123456789")[0] != text


@given(st.integers(0, 60), st.sampled_from("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-é "))
def test_one_wrong_character_is_noticed_without_any_store(position: int, character: str) -> None:
    text, _ = keys.make("0123456789")
    position %= len(text)
    mistyped = text[:position] + character + text[position + 1 :]
    assert mistyped == text or keys.parse(mistyped) is None


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    assert keys.parse(text) is None
    assert keys.parse("tg_" + text) is None


def test_a_mistyped_key_still_has_the_shape_of_one() -> None:
    text = "tg_0123456789_abcd_" + "0" * 38
    assert keys.has_shape(text)
    assert keys.parse(text) is None
    assert not keys.has_shape("sk-" + "0" * 48)
