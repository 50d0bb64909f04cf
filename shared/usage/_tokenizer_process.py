"""The child process that counts tokens."""

import struct
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from shared.types import Attempt, Outcome

if TYPE_CHECKING:
    import tiktoken

VOCABULARIES = Path(__file__).resolve().parent / "vocabularies"


# SHA-256 of the tables as OpenAI publishes them, in tiktoken's format (tiktoken_ext/openai_public.py names them, too).
PUBLISHED = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


_LENGTH = struct.Struct("<I")


class CountRequest(msgspec.Struct, array_like=True):
    """What is to be counted: a request's body, and the text of its answer as far as it came."""

    model: str
    body: bytes
    said: str


class Counted(msgspec.Struct, array_like=True):
    input_tokens: int
    output_tokens: int

    def correct(self, outcome: Outcome) -> Outcome:
        """The outcome with these counts where it has estimates. They remain estimates: what a model thought, saw or
        heard is in none of the texts."""
        usage = outcome.usage
        if usage.estimated:
            output = self.output_tokens or usage.output_tokens
            usage = msgspec.structs.replace(usage, input_tokens=self.input_tokens, output_tokens=output)
        return msgspec.structs.replace(outcome, usage=usage, attempts=tuple(map(self._of_try, outcome.attempts)))

    def _of_try(self, attempt: Attempt) -> Attempt:
        if attempt.usage is None or not attempt.usage.estimated:
            return attempt
        usage = msgspec.structs.replace(attempt.usage, input_tokens=self.input_tokens)
        return msgspec.structs.replace(attempt, usage=usage)


def encoding(name: str) -> "tiktoken.Encoding":
    """An encoding from the table that is shipped. Raises `ValueError` for a file that is not what OpenAI published."""
    import base64
    import hashlib
    import lzma

    import tiktoken
    import tiktoken_ext.openai_public as published

    packed = lzma.decompress((VOCABULARIES / f"{name}.xz").read_bytes())
    count = int.from_bytes(packed[:4], "little")
    ranks: dict[bytes, int] = {}
    check = hashlib.sha256()
    place = 4 + count
    for rank, length in enumerate(packed[4:place]):
        token = packed[place : place + length]
        ranks[token] = rank
        place += length
        check.update(b"%s %d\n" % (base64.b64encode(token), rank))
    if check.hexdigest() != PUBLISHED[name]:
        raise ValueError(f"{name}: not the table that OpenAI published")
    # tiktoken knows the pattern and the special tokens, and would now fetch the table.
    published.load_tiktoken_bpe = lambda *_, **__: ranks
    return tiktoken.Encoding(**published.ENCODING_CONSTRUCTORS[name]())


def encoding_name(model: str) -> str:
    """The encoding of a model, also by Azure's names; the newest one for models that are not known."""
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model(model)
    except KeyError:
        return "o200k_base"
    return name if name in PUBLISHED else "o200k_base"


def prompt_texts(body: bytes) -> tuple[list[str], int]:
    """The texts of a request that its model reads, and how many tokens of form stand between them.

    OpenAI's cookbook, "How to count tokens with tiktoken": three tokens a message, one a name, three before the answer.
    Schemas of tools are counted as the JSON they come in, near what they are turned into. Pictures and sound are not.
    """
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [], 0
    texts: list[str] = []
    form = 0
    for name in ("messages", "input"):
        turns = request.get(name)
        if isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns):
            form += 3 + 3 * len(turns) + sum(isinstance(turn, dict) and "name" in turn for turn in turns)
    form += sum(_gather(request.get(name), texts) for name in ("messages", "input", "prompt", "instructions"))
    schemas = (request.get(name) for name in ("tools", "functions"))
    texts += [msgspec.json.encode(schema).decode() for schema in schemas if schema]
    return texts, form


def _gather(value: Any, texts: list[str]) -> int:
    """Every text in a prompt, in messages, their parts and calls of tools; the number of tokens that came as such, as
    embeddings take them."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, list):
        return sum(_gather(item, texts) for item in value)
    elif isinstance(value, dict):
        names = ("role", "name", "content", "text", "refusal", "arguments", "output", "tool_calls", "function")
        return sum(_gather(value.get(name), texts) for name in names)
    return int(isinstance(value, int))


def answer(question: CountRequest, encodings: dict[str, "tiktoken.Encoding"]) -> Counted:
    name = encoding_name(question.model)
    if name not in encodings:
        encodings[name] = encoding(name)
    texts, form = prompt_texts(question.body)
    counts = [len(tokens) for tokens in encodings[name].encode_ordinary_batch(texts, num_threads=1)]
    return Counted(sum(counts) + form, len(encodings[name].encode_ordinary(question.said)))


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
    """Answer questions until there are no more."""
    encodings: dict[str, tiktoken.Encoding] = {}
    while True:
        try:
            question = msgspec.msgpack.decode(read(sys.stdin.buffer), type=CountRequest)
        except EOFError:
            return
        write(sys.stdout.buffer, msgspec.msgpack.encode(answer(question, encodings)))
