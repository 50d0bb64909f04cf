"""The child process that counts tokens."""

import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

import msgspec

from shared.azure_openai.json_body import UNREADABLE
from shared.types import Attempt, Outcome

# OpenAI's token tables, as tiktoken caches them; it checks their SHA-256. To download one again:
# TIKTOKEN_CACHE_DIR=shared/usage/vocabularies python -c 'import tiktoken; tiktoken.get_encoding("o200k_base")'
VOCABULARIES = Path(__file__).resolve().parent / "vocabularies"
SHIPPED = ("o200k_base", "cl100k_base")

_LENGTH = struct.Struct("<I")


class CountRequest(msgspec.Struct, array_like=True):
    """The body of a call, and the text of its answer, as far as it came."""

    model: str
    body: bytes
    text: str


class Counted(msgspec.Struct, array_like=True):
    input_tokens: int
    output_tokens: int

    def correct(self, outcome: Outcome) -> Outcome:
        """Replace the estimates of an outcome by these counts. They remain estimates: the texts lack reasoning, images
        and audio."""
        usage = outcome.usage
        if usage.estimated:
            output = usage.output_tokens
            if self.output_tokens:
                output = self.output_tokens + usage.reasoning_tokens
            usage = msgspec.structs.replace(usage, input_tokens=self.input_tokens, output_tokens=output)
        return msgspec.structs.replace(outcome, usage=usage, attempts=tuple(map(self._of_try, outcome.attempts)))

    def _of_try(self, attempt: Attempt) -> Attempt:
        if attempt.usage is None or not attempt.usage.estimated:
            return attempt
        usage = msgspec.structs.replace(attempt.usage, input_tokens=self.input_tokens)
        return msgspec.structs.replace(attempt, usage=usage)


def encoding_name(model: str) -> str:
    """The encoding of a model, by OpenAI's or Azure's name; the newest one for unknown models."""
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model(model)
    except KeyError:
        return "o200k_base"
    return name if name in SHIPPED else "o200k_base"


def prompt_texts(body: bytes) -> tuple[list[str], int]:
    """The texts of a request that its model reads, and the number of formatting tokens between them.

    OpenAI's cookbook, "How to count tokens with tiktoken": three tokens per message, one per name, three before the
    answer. Tool schemas are counted as JSON, which is close to the model's input. Images and audio are not counted.
    """
    try:
        prompt = msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        return [], 0
    texts: list[str] = []
    form = 0
    for name in ("messages", "input"):
        turns = prompt.get(name)
        if isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns):
            form += 3 + 3 * len(turns) + sum(isinstance(turn, dict) and "name" in turn for turn in turns)
    form += sum(_gather(prompt.get(name), texts) for name in ("messages", "input", "prompt", "instructions"))
    schemas = (prompt.get(name) for name in ("tools", "functions"))
    texts += [msgspec.json.encode(schema).decode() for schema in schemas if schema]
    return texts, form


_READ = ("role", "name", "content", "text", "refusal", "arguments", "output", "tool_calls", "function")


def _gather(value: Any, texts: list[str]) -> int:
    """Append every text of a prompt to `texts`: of messages, their parts and tool calls. Return the number of tokens
    that the prompt has as numbers, which embeddings accept. No recursion: callers nest as deep as they like."""
    numbers, left = 0, [value]
    while left:
        match left.pop():
            case str(text):
                texts.append(text)
            case list(items):
                left += reversed(items)
            case dict(fields):
                left += [fields[name] for name in reversed(_READ) if name in fields]
            case one:
                numbers += isinstance(one, int)
    return numbers


def answer(request: CountRequest) -> Counted:
    """Count the tokens of a prompt and of its answer's text."""
    import tiktoken

    encoding = tiktoken.get_encoding(encoding_name(request.model))
    texts, form = prompt_texts(request.body)
    counts = [len(tokens) for tokens in encoding.encode_ordinary_batch(texts, num_threads=1)]
    return Counted(sum(counts) + form, len(encoding.encode_ordinary(request.text)))


def write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def read(pipe: IO[bytes]) -> bytes:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    data = pipe.read(_LENGTH.unpack(head)[0])
    return data


def main() -> None:
    """Answer requests until there are no more."""
    os.environ["TIKTOKEN_CACHE_DIR"] = str(VOCABULARIES)
    while True:
        try:
            request = msgspec.msgpack.decode(read(sys.stdin.buffer), type=CountRequest)
        except EOFError:
            return
        write(sys.stdout.buffer, msgspec.msgpack.encode(answer(request)))
