"""Counts tokens where no backend told them: a caller who hung up, a stream that broke off.

By tiktoken and OpenAI's own tables, which are shipped here (`vocabularies/`): tiktoken would fetch them from the net.
Loading one holds Python's lock for up to a second, during which every open stream would stutter: so a child
process counts, which begins with the first text to be counted and ends when it has had
nothing to do for a while. What it is given leaves its memory with the answer, and is never written.
"""

import asyncio
import logging
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from shared.types import Attempt, Outcome

if TYPE_CHECKING:
    import tiktoken

logger = logging.getLogger("tollgate.ledger")

ROOT = Path(__file__).resolve().parents[2]
VOCABULARIES = Path(__file__).resolve().parent / "vocabularies"
# SHA-256 of the tables as OpenAI publishes them, in tiktoken's format (tiktoken_ext/openai_public.py names them, too).
PUBLISHED = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
MOST_BYTES = 4 * 1024 * 1024  # of a body or of an answer's text to be counted: a second's work

_IDLE = 120.0  # seconds until the child process is ended
_MOST_WAITING = 32 * 1024 * 1024  # bytes of questions; who finds so many before it does without
_OVERHEAD = 4096  # bytes that a question counts for besides its own
# Seconds from a question to its answer. The first one includes the loading, which takes a second or two of a core, and
# much longer on a busy machine; nothing is urgent about a call whose caller has left.
_PATIENCE = 60.0
_LAST_PATIENCE = 10.0  # when the process ends
# Where packages are is the parent's to tell: the Functions worker finds them by no environment variable.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from shared.usage.tokenizer import main; main()"
_LENGTH = struct.Struct("<I")


class Question(msgspec.Struct, array_like=True):
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


def is_estimated(outcome: Outcome) -> bool:
    return outcome.usage.estimated or any(a.usage is not None and a.usage.estimated for a in outcome.attempts)


class Tokenizer:
    """Asks the child process, one question at a time, from a thread of its own."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0  # bytes of questions
        self._stopping = False

    def correct(
        self, outcome: Outcome, body: bytes, said: str, account: Callable[[Outcome], asyncio.Future[None]]
    ) -> asyncio.Future[None]:
        """Account for an outcome when its estimates have been counted; done when the account is."""

        async def count_first() -> None:
            model = outcome.usage.model or (outcome.served_by.model if outcome.served_by else "")
            counted = None
            try:
                counted = await self.count(Question(model, body, said))
            except Exception:  # the account must not be lost over it
                logger.exception("tokens cannot be counted, and are estimated by characters")
            await account(counted.correct(outcome) if counted else outcome)

        task = asyncio.get_running_loop().create_task(count_first())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def count(self, question: Question) -> Counted | None:
        """The tokens. None where they cannot be counted: the reason is logged, and an estimate has to do."""
        size = len(question.body) + len(question.said)
        if size > MOST_BYTES or self._waiting + size + _OVERHEAD > _MOST_WAITING:
            return None
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tokenizer")
        if self._ending is not None:
            self._ending.cancel()
        self._ending = loop.call_later(_IDLE, self._end_child)
        self._waiting += size + _OVERHEAD
        try:
            return await loop.run_in_executor(self._thread, self._ask, question, time.monotonic() + _PATIENCE)
        finally:
            self._waiting -= size + _OVERHEAD

    async def stop(self, patience: float = _LAST_PATIENCE) -> None:
        """Who still waits then does without."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        self._stopping = True
        if (child := self._child) is not None:
            child.kill()  # which ends the question under way
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._ending is not None:
            self._ending.cancel()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._end)
            thread.shutdown(wait=False)

    def _end_child(self) -> None:
        if self._thread is not None:
            self._thread.submit(self._end)

    def _ask(self, question: Question, until: float) -> Counted | None:
        if self._stopping or (left := until - time.monotonic()) <= 0:
            return None
        if self._child is not None and self._child.poll() is not None:
            self._end()
        try:
            if (child := self._child) is None:
                child = self._child = subprocess.Popen(  # noqa: S603 - arguments of our own
                    [sys.executable, "-c", _CHILD, *sys.path],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            assert child.stdin is not None
            assert child.stdout is not None
            watch = threading.Timer(left, child.kill)
            watch.start()
            try:
                _write(child.stdin, msgspec.msgpack.encode(question))
                return msgspec.msgpack.decode(_read(child.stdout), type=Counted)
            finally:
                watch.cancel()
        except (OSError, EOFError, ValueError) as error:
            logger.warning("tokens cannot be counted, and are estimated by characters (%s)", type(error).__name__)
            self._end()
            return None

    def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.communicate()


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


def answer(question: Question, encodings: dict[str, "tiktoken.Encoding"]) -> Counted:
    name = encoding_name(question.model)
    if name not in encodings:
        encodings[name] = encoding(name)
    texts, form = prompt_texts(question.body)
    counts = [len(tokens) for tokens in encodings[name].encode_ordinary_batch(texts, num_threads=1)]
    return Counted(sum(counts) + form, len(encodings[name].encode_ordinary(question.said)))


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
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
            question = msgspec.msgpack.decode(_read(sys.stdin.buffer), type=Question)
        except EOFError:
            return
        _write(sys.stdout.buffer, msgspec.msgpack.encode(answer(question, encodings)))
