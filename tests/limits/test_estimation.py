"""Estimates of the tokens of a call, and what they learn."""

import base64
import random
from typing import Any

import msgspec
import pytest

from shared.azure_openai import operations, requests
from shared.azure_openai.metering import IMAGE
from shared.limits import estimation
from shared.types import Call, Usage
from shared.usage.token_averages import Size, TokenAverages

CHAT, EMBEDDINGS = operations.OPERATIONS[0], operations.OPERATIONS[2]


def call(size: int = 400, most: int | None = 50) -> Call:
    return Call(operation=CHAT, surface="openai", model="gpt-4o", body=b"x" * size, max_output_tokens=most)


def test_answers_under_way_are_longer_than_the_average_one() -> None:
    experience = TokenAverages()
    for number in range(400):
        experience = experience.learn(Size(1000), Usage(250, 1000 if number % 2 else 100))
    assert experience.output == pytest.approx(550, rel=0.1)
    assert experience.expected_output == pytest.approx((1000**2 + 100**2) / 1100, rel=0.1)


NOTHING_KNOWN = TokenAverages()


def expected(call: Call, experience: TokenAverages = NOTHING_KNOWN) -> estimation.Estimate:
    return estimation.expected(call, estimation.size(call), experience)


def most(call: Call, experience: TokenAverages = NOTHING_KNOWN) -> estimation.Estimate:
    return estimation.most(call, estimation.size(call), experience)


def parsed(path: str, **fields: Any) -> Call:
    """The call that the gateway makes of this body."""
    body = msgspec.json.encode({"model": "gpt-4o", **fields})
    return requests.parse_call(operations.match("POST", f"/v1/{path}"), "", {}, body)


def test_estimates_stay_within_what_the_call_allows() -> None:
    assert expected(call(400, most=5)).output == 5
    assert expected(call(400, most=None)).output == 1.25 * 450
    assert most(call(400, most=None)).output == estimation.ASSUMED_OUTPUT
    assert most(call(400, most=10**12)).output == estimation.MOST_OUTPUT
    assert most(call(400, most=-5)).output == 0
    embedding = msgspec.structs.replace(call(400), operation=EMBEDDINGS)
    assert most(embedding).output == 0


def test_tokens_are_reserved_for_every_requested_answer() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    one = parsed("chat/completions", messages=messages, max_tokens=100)
    three = parsed("chat/completions", messages=messages, max_tokens=100, n=3)
    assert (most(one).output, most(three).output) == (100, 300)
    assert expected(three).output == 3 * expected(one).output
    best = parsed("completions", prompt="Hello", max_tokens=10, n=2, best_of=5)
    assert most(best).output == 50
    for wrong in (0, -1, 1.5, "3", None, 10**30):
        assert most(parsed("chat/completions", messages=messages, max_tokens=100, n=wrong)).output in (100, 12_800)


def test_the_learned_average_is_per_answer() -> None:
    size = Size(400, answers=4)
    experience = NOTHING_KNOWN
    for _ in range(400):
        experience = experience.learn(size, Usage(100, 400))
    assert experience.expected_output == pytest.approx(100, rel=0.05)


def test_the_bound_of_a_response_is_its_max_output_tokens() -> None:
    assert most(parsed("responses", input="Hello", max_output_tokens=70)).output == 70


def test_tokens_are_reserved_for_generated_images() -> None:
    picture = parsed("images/generations", prompt="A cat", n=2)
    assert most(picture).output == 2 * estimation.LARGEST_IMAGE
    assert expected(picture).output == 2 * IMAGE
    known = NOTHING_KNOWN
    for _ in range(400):
        known = known.learn(Size(100, answers=2), Usage(20, 2 * 272))
    assert expected(picture, known).output == pytest.approx(2 * 1.25 * 272, rel=0.05)


def test_a_picture_in_a_prompt_is_not_counted_by_its_bytes() -> None:
    url = "data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(300_000)).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    seen = parsed("chat/completions", messages=[{"role": "user", "content": content}])
    assert len(seen.body) > 400_000
    assert 500 < expected(seen).input < 8_000
    experience = NOTHING_KNOWN
    for _ in range(100):
        experience = experience.learn(estimation.size(seen), Usage(765, 10))
    assert 500 < expected(seen, experience).input < 1_100
    assert experience.tokens_per_byte == NOTHING_KNOWN.tokens_per_byte


@pytest.mark.parametrize(
    "text", ["Words, words and 'words'. " * 4000, "東京は日本の首都です。" * 4000, '{"a": [1, 2]}' * 8000]
)
def test_long_text_is_counted_by_its_bytes(text: str) -> None:
    long = parsed("chat/completions", messages=[{"role": "user", "content": text}])
    assert expected(long).input == pytest.approx(len(long.body) * 0.25, rel=0.05)


def test_a_recording_is_not_counted_by_its_bytes() -> None:
    operation = next(o for o in operations.OPERATIONS if o.name == "audio.transcriptions")
    recording = msgspec.structs.replace(call(25_000_000), operation=operation)
    assert expected(recording).input == 1000


def test_operations_without_tokens_reserve_none() -> None:
    for name in ("files.get", "responses.get", "responses.input_tokens"):
        operation = next(o for o in operations.OPERATIONS if o.name == name)
        asked = msgspec.structs.replace(call(400, most=None), operation=operation)
        assert expected(asked) == most(asked) == estimation.NOTHING


def test_the_estimate_of_a_large_body_reads_only_samples_of_it() -> None:
    looked = []

    class Body(bytes):
        def __getitem__(self, place: Any) -> Any:
            looked.append(place)
            return super().__getitem__(place)

    estimation._binary(Body(b"x y " * 5_000_000))
    assert len(looked) <= 65
