"""Calls of every metered kind."""

import asyncio
import io
import random
import re
import wave
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from bench.ledger_load import WORDS

DEPLOYMENTS = {
    "chat": "gpt-4o",
    "think": "o4-mini",
    "instruct": "gpt-35-turbo-instruct",
    "embed": "text-embedding-3-small",
    "paint": "gpt-image-1",
    "draw": "dall-e-3",
    "speak": "tts",
    "say": "gpt-4o-mini-tts",
    "hear": "whisper",
    "transcribe": "gpt-4o-transcribe",
}
_POLLS = 60
_UNDER_WAY = ("validating", "queued", "in_progress", "finalizing")

type Body = Callable[[random.Random], dict[str, Any]]


class Kind(msgspec.Struct, frozen=True):
    """`weight`: its share of the calls. `stream`: some of its callers disconnect. `follow`: path to poll for work that
    continues after the call. `unreported`: properties that the simulator counts but does not report."""

    weight: int
    path: str
    body: Body
    stream: bool = False
    form: bool = False
    follow: str = ""
    unreported: tuple[str, ...] = ()


def _words(chance: random.Random, most: int = 300) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(30, most)))


def _chat(model: str = "chat", **more: Any) -> Body:
    def body(chance: random.Random) -> dict[str, Any]:
        prompt = f"{_words(chance)} simulate_output_tokens={chance.randint(10, 200)}"
        return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}

    return body


def _long(_: random.Random) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": " ".join(WORDS * 100)}]}


def _predicted(chance: random.Random) -> dict[str, Any]:
    return {**_chat()(chance), "prediction": {"type": "content", "content": "the toll is paid at every gate"}}


def _prompt(model: str, name: str, most: int = 300, **more: Any) -> Body:
    return lambda chance: {"model": model, name: _words(chance, most), **more}


def _sound(model: str, **more: Any) -> Body:
    def body(chance: random.Random) -> dict[str, Any]:
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(1)
            sound.setframerate(100)
            sound.writeframes(chance.randbytes(100 * chance.randint(1, 9)))
        return {"model": model, "file": file.getvalue(), **more}

    return body


def _picture(chance: random.Random) -> dict[str, Any]:
    return {"model": "paint", "prompt": _words(chance, 60), "quality": "low", "image": b"no picture"}


def _run(**more: Any) -> Body:
    def body(chance: random.Random) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"{_words(chance)} simulate_output_tokens={chance.randint(10, 200)}"}]
        return {"assistant_id": "", "thread": {"messages": messages}, **more}

    return body


def _batch(_: random.Random) -> dict[str, Any]:
    return {"input_file_id": "", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


_CHAT, _COMPLETE, _RESPOND = "/v1/chat/completions", "/v1/completions", "/v1/responses"
_RUN = "/v1/threads/{thread_id}/runs/{id}"
KINDS = {
    "chat": Kind(12, _CHAT, _chat()),
    "chat stream": Kind(16, _CHAT, _chat(stream=True), stream=True),
    "two choices": Kind(3, _CHAT, _chat(n=2)),
    "a prompt seen before": Kind(2, _CHAT, _long),
    "predicted": Kind(2, _CHAT, _predicted),
    "reasoning": Kind(3, _CHAT, _chat("think")),
    "reasoning stream": Kind(3, _CHAT, _chat("think", stream=True), stream=True),
    "completion": Kind(6, _COMPLETE, _prompt("instruct", "prompt", max_tokens=90)),
    "completion stream": Kind(6, _COMPLETE, _prompt("instruct", "prompt", max_tokens=90, stream=True), stream=True),
    "embedding": Kind(10, "/v1/embeddings", _prompt("embed", "input", dimensions=64)),
    "response": Kind(8, _RESPOND, _prompt("chat", "input")),
    "response stream": Kind(12, _RESPOND, _prompt("chat", "input", stream=True), stream=True),
    "response, compacted": Kind(2, f"{_RESPOND}/compact", _prompt("chat", "input")),
    "response in the background": Kind(
        3, _RESPOND, _prompt("chat", "input", background=True), follow=f"{_RESPOND}/{{id}}"
    ),
    "run": Kind(2, "/v1/threads/runs", _run(), follow=_RUN),
    "run stream": Kind(2, "/v1/threads/runs", _run(stream=True), stream=True, follow=_RUN),
    "batch": Kind(1, "/v1/batches", _batch, follow="/v1/batches/{id}"),
    "images": Kind(2, "/v1/images/generations", _prompt("paint", "prompt", 60, n=2, quality="low")),
    "image stream": Kind(
        2,
        "/v1/images/generations",
        _prompt("paint", "prompt", 60, quality="low", stream=True, partial_images=3),
        stream=True,
    ),
    "images by the piece": Kind(2, "/v1/images/generations", _prompt("draw", "prompt", 60, response_format="url")),
    "image edit": Kind(2, "/v1/images/edits", _picture, form=True),
    "speech": Kind(2, "/v1/audio/speech", _prompt("speak", "input", 60, voice="alloy"), stream=True),
    "speech as events": Kind(
        2,
        "/v1/audio/speech",
        _prompt("say", "input", 60, voice="alloy", stream_format="sse"),
        stream=True,
        unreported=("e_chars", "e_audio_out"),
    ),
    "transcription": Kind(2, "/v1/audio/transcriptions", _sound("hear"), form=True),
    "transcription stream": Kind(
        2,
        "/v1/audio/transcriptions",
        _sound("transcribe", stream="true", prompt="simulate_output_tokens=60"),
        stream=True,
        form=True,
        unreported=("e_seconds",),
    ),
    "translation": Kind(2, "/v1/audio/translations", _sound("hear"), form=True),
}


class Job(msgspec.Struct):
    """A call and the requests that follow it. `finished`: the caller has seen how it ended."""

    kind: str
    status: int = 0
    request_ids: list[str] = []
    answered: list[str] = []  # those with status 200
    left: bool = False
    finished: bool = False


class Callers:
    """Makes calls with one key. Use it as a context manager."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._headers = {"authorization": f"Bearer {key}"}
        self._fixed: dict[str, str] = {}
        self.requests = 0

    async def __aenter__(self) -> "Callers":
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def prepare(self) -> None:
        """Create the assistant and the file that runs and batches need."""
        assistant = await self._create("/v1/assistants", {"model": "chat", "instructions": "Count every toll."})
        lines = [
            {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": _chat()(random.Random(n))}
            for n in range(3)
        ]
        data = b"\n".join(map(msgspec.json.encode, lines))
        file = await self._create("/v1/files", {"purpose": "batch", "file": data}, form=True)
        self._fixed = {"assistant_id": assistant, "input_file_id": file}

    async def _create(self, path: str, fields: dict[str, Any], *, form: bool = False) -> str:
        job = Job("", request_ids=[], answered=[])
        body = await self._send(job, "POST", path, _form(fields) if form else msgspec.json.encode(fields))
        if job.status != 200:
            raise RuntimeError(f"{path}: {job.status} {body[:300]!r}")
        return str(msgspec.json.decode(body)["id"])

    async def call(self, name: str, chance: random.Random, leave: int | None) -> Job:
        """Make one call and poll its work. `leave`: number of pieces after which the caller disconnects."""
        kind, job = KINDS[name], Job(name, request_ids=[], answered=[])
        fields = {field: self._fixed.get(field, value) for field, value in kind.body(chance).items()}
        body = await self._send(
            job, "POST", kind.path, _form(fields) if kind.form else msgspec.json.encode(fields), leave
        )
        job.finished = job.status == 200 and not kind.follow
        if kind.follow and (ids := _started_ids(body)):
            await self._follow(job, kind.follow.format(**ids))
        return job

    async def _follow(self, job: Job, path: str) -> None:
        for _ in range(_POLLS):
            await asyncio.sleep(0.3)
            body = await self._send(job, "GET", path)
            if job.status == 200 and _status(body) not in (*_UNDER_WAY, ""):
                job.finished = True
                return

    async def _send(
        self, job: Job, method: str, path: str, data: bytes | aiohttp.FormData | None = None, leave: int | None = None
    ) -> bytes:
        """Send a request and return the received part of the body. `job.status` is 0 if the answer broke off."""
        headers = self._headers | ({"content-type": "application/json"} if isinstance(data, bytes) else {})
        pieces: list[bytes] = []
        job.status, request_id = 0, ""
        self.requests += 1
        try:
            async with self._session.request(method, self._address + path, data=data, headers=headers) as answer:
                request_id = answer.headers["x-gateway-request-id"]
                job.request_ids.append(request_id)
                async for piece in answer.content.iter_any():
                    pieces.append(piece)
                    if leave is not None and len(pieces) >= leave:
                        job.left = True
                        answer.close()
                        break
                job.status = answer.status
                if answer.status == 200:
                    job.answered.append(request_id)
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        return b"".join(pieces)


def _form(fields: dict[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, bytes):
            form.add_field(name, value, filename=f"{name}.wav")
        else:
            form.add_field(name, str(value))
    return form


def _started_ids(body: bytes) -> dict[str, str]:
    """Ids of the started work, from an answer or the events of a run."""
    event = re.search(rb"event: thread\.run\.created\ndata: (\{.*\})", body)
    try:
        started = msgspec.json.decode(event[1] if event else body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return {name: started[name] for name in ("id", "thread_id") if isinstance(started.get(name), str)}


def _status(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any]).get("status", ""))
    except msgspec.DecodeError:
        return ""
