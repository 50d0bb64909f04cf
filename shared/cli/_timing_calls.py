"""Timed chat completions with OpenAI's official client, through the gateway and directly."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from shared.errors import CredentialUnavailable

if TYPE_CHECKING:
    import openai  # imported where it is used: it is half of the time that a command takes to start

Via = Literal["gateway", "direct"]
_OWN_CALLS = 20  # of each worker, by which the client's own time is measured


class Job(NamedTuple):
    """A call to make. `deployment`: the name that the way knows the model by."""

    model: str
    via: Via
    deployment: str


class Question(NamedTuple):
    prompt: str
    output_tokens: int
    stream: bool


class _Answer(msgspec.Struct):
    """An answer as far as it has come. Times in seconds, None if not known; `overhead` is what the gateway says that it
    added. `status` 0: no answer. `problem` "": it succeeded."""

    status: int = 0
    problem: str = ""
    first_token: float | None = None
    output_tokens: int = 0
    region: str = ""
    overhead: float | None = None


class TimedCall(_Answer, kw_only=True):
    """A call that ended. Times in seconds; `start` since 1970."""

    model: str
    via: Via
    start: float
    duration: float

    @property
    def tokens_per_second(self) -> float | None:
        """Of a stream, from its first token on."""
        seconds = self.duration - (self.first_token or 0.0)
        return self.output_tokens / seconds if self.output_tokens and seconds > 0 else None


def jobs(models: Iterable[tuple[str, str]], calls: int, *, direct: bool) -> Iterable[Job]:
    """The calls in order, for models given as (name, deployment of the direct way). The ways take turns in going first,
    so that neither gains from the time of day or from the other's call."""
    named = list(models)
    for number in range(calls):
        for model, deployment in named:
            pair = [Job(model, "gateway", model)]
            if direct:
                pair.append(Job(model, "direct", deployment))
            yield from pair if number % 2 == 0 else reversed(pair)


async def make(
    some: Iterable[Job],
    concurrency: int,
    call: Callable[[Job], Awaitable[TimedCall]],
    done: Callable[[TimedCall], None],
) -> None:
    """Make the calls, so many at a time. `done` is called for each that ended."""
    left = iter(some)

    async def work() -> None:
        for job in left:
            done(await call(job))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


async def timed(client: "openai.AsyncOpenAI", job: Job, question: Question) -> TimedCall:
    """Make one call. Failures are results, too."""
    import httpx2
    import openai

    answer = _Answer()
    start, began = time.time(), time.perf_counter()
    try:
        await _ask(client, job, question, answer, began)
    except openai.APIStatusError as error:
        answer.status, answer.problem = error.status_code, str(error.code or type(error).__name__)
    except openai.APITimeoutError:
        answer.status, answer.problem = 0, "timeout"
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        answer.problem = f"connection: {type(error.__cause__ or error).__name__}"
    except CredentialUnavailable:
        answer.problem = "no token of the identity"
    except openai.APIError as error:  # an error within a stream
        answer.problem = str(error.code or "error in the stream")
    duration = time.perf_counter() - began
    return TimedCall(model=job.model, via=job.via, start=start, duration=duration, **msgspec.structs.asdict(answer))


async def _ask(client: "openai.AsyncOpenAI", job: Job, question: Question, answer: _Answer, began: float) -> None:
    options: dict[str, Any] = {
        "model": job.deployment,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_completion_tokens": question.output_tokens,
    }
    if not question.stream:
        raw = await client.chat.completions.with_raw_response.create(**options)
        _read_head(answer, raw.status_code, raw.headers)
        usage = raw.parse().usage
        answer.output_tokens = usage.completion_tokens if usage else 0
        return
    options |= {"stream": True, "stream_options": {"include_usage": True}}
    raw = await client.chat.completions.with_raw_response.create(**options)
    _read_head(answer, raw.status_code, raw.headers)
    finished = False
    async for chunk in raw.parse():
        if chunk.usage:
            answer.output_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            finished = finished or choice.finish_reason is not None
            if answer.first_token is None and choice.delta and choice.delta.content:
                answer.first_token = time.perf_counter() - began
    if not finished:
        answer.problem = "the stream ended early"


def _read_head(answer: _Answer, status: int, headers: Any) -> None:
    answer.status = status
    answer.region = headers.get("x-gateway-region") or headers.get("x-ms-region") or ""
    if overhead := headers.get("x-gateway-overhead-ms"):
        answer.overhead = float(overhead) / 1000


async def own_time(question: Question, concurrency: int) -> list[float]:
    """Seconds that calls take with a server on this machine that answers at once: what the client itself takes."""
    import openai

    server = await asyncio.start_server(_answer_at_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    seconds: list[float] = []
    async with server, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        job = Job("none", "direct", "none")
        await timed(client, job, question)  # opens the connection
        again = [job] * (_OWN_CALLS * concurrency)
        await make(again, concurrency, lambda job: timed(client, job, question), lambda c: seconds.append(c.duration))
    return seconds


async def _answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = msgspec.json.decode(await reader.readexactly(int(length.partition(b":")[2])))
            writer.write(_STREAM if body.get("stream") else _WHOLE)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _http(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _completion(**choice: Any) -> bytes:
    whole = {"id": "1", "created": 1, "model": "none", "object": "chat.completion"}
    return msgspec.json.encode(whole | {"choices": [{"index": 0, "finish_reason": "stop", **choice}]})


_WHOLE = _http("application/json", _completion(message={"role": "assistant", "content": "Yes."}))
_STREAM = _http("text/event-stream", b"data: " + _completion(delta={"content": "Yes."}) + b"\n\ndata: [DONE]\n\n")
