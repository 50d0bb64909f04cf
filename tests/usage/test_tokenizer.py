"""Tokens are counted as OpenAI counts them, without downloads, in a process that serves no requests."""

import asyncio
import subprocess
import sys
import time

import msgspec
import pytest
import tiktoken.load

from shared.config.document import Backend
from shared.types import Attempt, Outcome, Target, Usage
from shared.usage import tokenizer as module
from shared.usage._tokenizer_process import VOCABULARIES, Counted, CountRequest, encoding_name, prompt_texts
from shared.usage.tokenizer import Tokenizer

# The example of OpenAI's cookbook, "How to count tokens with tiktoken", and what the API itself counted for it.
MESSAGES = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
        "plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
        "leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
BODY = msgspec.json.encode({"model": "any", "messages": MESSAGES})
TARGET = Target(Backend(name="b", endpoint="https://b", region="r", models={"m": "d"}), "m", "d")


async def test_a_prompt_is_counted_as_the_api_counts_it() -> None:
    tokenizer = Tokenizer()
    try:
        for model, tokens in (("gpt-4o-2024-11-20", 124), ("gpt-35-turbo", 129)):
            counted = await tokenizer.count(CountRequest(model, BODY, "antidisestablishmentarianism"))
            assert counted == Counted(tokens, 6)
    finally:
        await tokenizer.close()


def test_known_texts_have_their_known_counts_by_the_shipped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(url: str) -> bytes:
        raise AssertionError(f"{url} is not shipped, or is not the published table")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(VOCABULARIES))
    monkeypatch.setattr(tiktoken.load, "read_file", no_download)
    newer, older = tiktoken.get_encoding("o200k_base"), tiktoken.get_encoding("cl100k_base")
    for text, of_older, of_newer in (("2 + 2 = 4", 7, 7), ("お誕生日おめでとう", 9, 8), ("tiktoken is great!", 6, 6)):
        assert (len(older.encode(text)), len(newer.encode(text))) == (of_older, of_newer)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-5.1-2026-01-01", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-35-turbo-instruct", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("a model of tomorrow", "o200k_base"),
        ("davinci", "o200k_base"),  # its table is not shipped
        ("", "o200k_base"),
    ],
)
def test_models_have_their_encodings(model: str, name: str) -> None:
    assert encoding_name(model) == name


@pytest.mark.parametrize(
    ("body", "texts", "form"),
    [
        (b'{"input": "one text"}', ["one text"], 0),
        (b'{"input": ["one", "two"]}', ["one", "two"], 0),
        (b'{"input": [[1, 2, 3], [4]]}', [], 4),
        (b'{"prompt": "once"}', ["once"], 0),
        (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, '
         b'{"type": "image_url", "image_url": {"url": "data:AAAA"}}]}]}', ["user", "see"], 6),
        (b'{"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "instructions": "y"}',
         ["user", "x", "y"], 6),
        (b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]}',
         ["assistant", "f", "{}"], 6),
        (b'{"tools": [{"a": 1}]}', ['[{"a":1}]'], 0),
        (b"no json", [], 0),
        (b"[1]", [], 0),
        (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", [], 0),
        (b'{"input": ' + b"[" * 900 + b'"deep"' + b"]" * 900 + b"}", ["deep"], 0),
        (b'{"input": ' + b'{"content":' * 900 + b'"deep"' + b"}" * 900 + b"}", ["deep"], 0),
        (b'{"tools": [' + b"[" * 900 + b"]" * 900 + b"]}", ["[" * 901 + "]" * 901], 0),
    ],
)  # fmt: skip
def test_the_texts_of_a_request_that_its_model_reads(body: bytes, texts: list[str], form: int) -> None:
    assert prompt_texts(body) == (texts, form)


async def test_a_child_that_was_killed_is_replaced_and_one_that_cannot_start_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer()
    request = CountRequest("gpt-4", b"{}", "hello world")
    assert await tokenizer.count(request) == Counted(0, 2)
    assert tokenizer._child is not None
    tokenizer._child.kill()
    tokenizer._child.wait()
    assert await tokenizer.count(request) == Counted(0, 2)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    tokenizer._child.kill()
    tokenizer._child.wait()
    assert await tokenizer.count(request) is None
    assert "cannot count tokens (FileNotFoundError); estimated by characters" in caplog.text
    await tokenizer.close()


async def test_texts_that_are_too_large_are_not_counted() -> None:
    tokenizer = Tokenizer()
    assert await tokenizer.count(CountRequest("gpt-4", b" " * (module.MOST_BYTES + 1), "")) is None
    assert tokenizer._child is None
    await tokenizer.close()


async def test_calls_that_wait_when_the_process_ends_keep_their_estimates() -> None:
    tokenizer, counted = Tokenizer(), list[Outcome | None]()
    rough = Outcome(status=200, usage=Usage(10, 20, estimated=True))
    for _ in range(20):
        tokenizer.correct(rough, BODY, "hello", counted.append)
    await asyncio.sleep(0.05)  # the child process has begun, and is loading
    await tokenizer.close(0.0)
    assert counted == [None] * 20


async def test_as_many_requests_as_a_dead_region_causes_at_once_are_all_answered() -> None:
    tokenizer = Tokenizer()
    request = CountRequest("gpt-4o", BODY, "hello world")
    assert await asyncio.gather(*(tokenizer.count(request) for _ in range(1000))) == [Counted(124, 2)] * 1000
    await tokenizer.close()


async def test_counting_does_not_hold_up_the_event_loop() -> None:
    """Loading a table takes a second of a core and holds Python's lock, but in the child process."""
    tokenizer = Tokenizer()
    counting = asyncio.ensure_future(tokenizer.count(CountRequest("gpt-4o", BODY, "hello " * 100_000)))
    before = time.process_time()
    assert await counting == Counted(124, 100_001)
    assert time.process_time() - before < 0.3  # of this process; wall time would tell how busy the machine is
    await tokenizer.close()


async def test_only_estimates_are_corrected_and_they_remain_estimates() -> None:
    exact, rough = Usage(10, 20), Usage(10, 20, estimated=True)
    tries = tuple(Attempt(TARGET, 0, "x", 1.0, "try", usage) for usage in (None, exact, rough))
    outcome = Counted(7, 9).correct(Outcome(status=200, usage=exact, attempts=tries))
    assert outcome.usage == exact
    assert [attempt.usage for attempt in outcome.attempts] == [None, exact, Usage(7, 20, estimated=True)]
    assert Counted(7, 9).correct(Outcome(status=200, usage=rough)).usage == Usage(7, 9, estimated=True)
    assert Counted(7, 0).correct(Outcome(status=200, usage=rough)).usage == Usage(7, 20, estimated=True)


def test_the_serving_process_never_loads_tiktoken() -> None:
    code = "import shared.bootstrap, shared.asgi, sys; sys.exit('tiktoken' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=module.ROOT, timeout=60).returncode == 0
