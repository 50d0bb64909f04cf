"""A realtime session: what its events make of it, and the responses that it generates.

Sound in is 24 kHz PCM in 16 bits: a token is 100 ms of a caller's sound and 50 ms of a generated one. What the model
has read before is cached.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import msgspec

from simulator.answers import Charge
from simulator.collection import Object, make_id
from simulator.deployments import Deployment
from simulator.generation import TOKENS_PER_CHUNK, generate
from simulator.tokens import measure

_BYTES_PER_SECOND = 48_000
_TOKENS_HEARD, _TOKENS_SPOKEN = 10, 20  # per second
ITEM_TOKENS = 4
_TOKEN_OF_SOUND = b"\x00" * (_BYTES_PER_SECOND // _TOKENS_SPOKEN)


class SessionEvent(msgspec.Struct, frozen=True):
    """An event for the client. `chunk`: a piece of generated content; `charge`: billed with it; `ends`: a response."""

    content: Object
    chunk: bool = False
    charge: Charge | None = None
    ends: bool = False


class Refusal(Exception):
    """An event that the session cannot take."""


class RealtimeSession:
    def __init__(self, deployment: Deployment | None) -> None:
        """`deployment` None: it transcribes alone."""
        self._deployment = deployment
        hears = {"audio": {"input": {"transcription": None, "turn_detection": None}}}
        self._session: Object = {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": make_id("sess_"),
            **hears,
        }
        if deployment is not None:
            speaks = {"model": deployment.model.answered_name, "output_modalities": ["audio"]}
            self._session |= {"type": "realtime", "object": "realtime.session", **speaks}
        self._items: list[Object] = []
        self._text = self._sound = 0  # tokens of the conversation
        self._read_text = self._read_sound = 0  # those that the model has read before
        self._buffer = b""
        self._number = 0

    def opening(self) -> SessionEvent:
        return self._event("session.created", session=self._session)

    def take(self, event: Object) -> Iterator[SessionEvent]:
        """The events that answer one of the client's. Raises `Refusal`."""
        match event.get("type"):
            case "session.update":
                self._session = _merged(self._session, event.get("session") or {})
                yield self._event("session.updated", session=self._session)
            case "conversation.item.create":
                yield from self._add(dict(event.get("item") or {}))
            case "input_audio_buffer.append":
                yield from self._hear(event)
            case "input_audio_buffer.commit":
                yield from self._commit()
            case "input_audio_buffer.clear":
                self._buffer = b""
                yield self._event("input_audio_buffer.cleared")
            case "response.create":
                yield from self._respond(event.get("response") or {})
            case other:
                raise Refusal(f"Invalid value: '{other}'.")

    def _event(self, kind: str, **content: Any) -> SessionEvent:
        self._number += 1
        return SessionEvent({"type": kind, "event_id": f"event_{self._number}", **content})

    def _add(self, item: Object) -> Iterator[SessionEvent]:
        item = {"id": make_id("item_"), "object": "realtime.item", "status": "completed", **item}
        self._items.append(item)
        self._text += ITEM_TOKENS + sum(measure(text).tokens for text in _texts(item))
        yield self._event("conversation.item.added", item=item, previous_item_id=None)
        yield self._event("conversation.item.done", item=item, previous_item_id=None)

    def _hear(self, event: Object) -> Iterator[SessionEvent]:
        try:
            self._buffer += base64.b64decode(event["audio"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise Refusal("Invalid 'audio'. Expected base64-encoded audio bytes.") from None
        detection = self._session["audio"]["input"]["turn_detection"]
        if detection and len(self._buffer) >= _BYTES_PER_SECOND:  # it hears the end of each second as one of speech
            yield self._event("input_audio_buffer.speech_stopped", audio_end_ms=1000, item_id="")
            yield from self._commit()
            if self._deployment is not None:
                yield from self._respond({})

    def _commit(self) -> Iterator[SessionEvent]:
        if not self._buffer:
            raise Refusal("Error committing input audio buffer: buffer too small.")
        seconds, self._buffer = len(self._buffer) / _BYTES_PER_SECOND, b""
        self._sound += round(seconds * _TOKENS_HEARD)
        item: Object = {"id": make_id("item_"), "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
        self._items.append(item)
        yield self._event("input_audio_buffer.committed", item_id=item["id"], previous_item_id=None)
        if transcription := self._session["audio"]["input"]["transcription"]:
            yield self._transcribed(item["id"], transcription, seconds)

    def _transcribed(self, item_id: str, transcription: Object, seconds: float) -> SessionEvent:
        tokens = round(seconds * _TOKENS_HEARD)
        charge, usage = Charge(seconds=seconds), {"type": "duration", "seconds": seconds}
        if "whisper" not in str(transcription.get("model")):
            charge = Charge(input_tokens=tokens, audio_input_tokens=tokens, output_tokens=5)
            details = {"audio_tokens": tokens, "text_tokens": 0}
            usage = {"type": "tokens", "input_tokens": tokens, "output_tokens": 5, "total_tokens": tokens + 5}
            usage["input_token_details"] = details
        named = "conversation.item.input_audio_transcription.completed"
        event = self._event(named, item_id=item_id, content_index=0, transcript="a quiet harbour again", usage=usage)
        return msgspec.structs.replace(event, charge=charge, ends=True)

    def _respond(self, parameters: Object) -> Iterator[SessionEvent]:
        if self._deployment is None:
            raise Refusal("Responses cannot be created in a transcription session.")
        modalities = parameters.get("output_modalities") or self._session["output_modalities"]
        spoken = "audio" in modalities
        last = " ".join(_texts(self._items[-1])) if self._items else ""
        written = generate(last or "silence", 0, None, self._deployment.model)
        usage, charge = self._usage(len(written.tokens), spoken=spoken)
        response: Object = {"id": make_id("resp_"), "object": "realtime.response", "output_modalities": modalities}
        response |= {"conversation_id": "conv_simulated", "metadata": parameters.get("metadata")}
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        item: Object = {"id": make_id("item_"), "object": "realtime.item", "type": "message", "role": "assistant"}
        item |= {"status": "in_progress", "content": []}
        place = {"response_id": response["id"], "output_index": 0, "item_id": item["id"], "content_index": 0}
        opened = self._event("response.created", response=begun)
        yield msgspec.structs.replace(opened, charge=charge.opening)
        yield self._event("response.output_item.added", response_id=response["id"], output_index=0, item=item)
        kind = "response.output_audio_transcript.delta" if spoken else "response.output_text.delta"
        for start in range(0, len(written.tokens), TOKENS_PER_CHUNK):
            piece = written.tokens[start : start + TOKENS_PER_CHUNK]
            if spoken:
                sound = base64.b64encode(_TOKEN_OF_SOUND * len(piece)).decode()
                yield self._event("response.output_audio.delta", **place, delta=sound)
            cost = Charge(output_tokens=len(piece) * (1 + spoken), audio_output_tokens=len(piece) * spoken)
            delta = self._event(kind, **place, delta="".join(piece))
            yield msgspec.structs.replace(delta, chunk=True, charge=cost)
        part = {"type": "output_audio", "transcript": written.text} if spoken else {"type": "output_text"}
        item = {**item, "status": "completed", "content": [part if spoken else {**part, "text": written.text}]}
        self._items.append(item)
        self._text += ITEM_TOKENS + len(written.tokens)
        self._sound += len(written.tokens) * spoken
        yield self._event("response.output_item.done", response_id=response["id"], output_index=0, item=item)
        done = self._event("response.done", response={**response, "status": "completed", "output": [item], **usage})
        yield msgspec.structs.replace(done, ends=True)

    def _usage(self, written: int, *, spoken: bool) -> tuple[Object, Charge]:
        """The usage of a response, which reads the whole conversation. What it reads is cached for the next."""
        text, sound = self._text, self._sound
        cached_text, cached_sound = self._read_text, self._read_sound
        self._read_text, self._read_sound = text, sound
        spoken_tokens = written * spoken
        charge = Charge(
            input_tokens=text + sound,
            cached_tokens=cached_text + cached_sound,
            audio_input_tokens=sound,
            output_tokens=written + spoken_tokens,
            audio_output_tokens=spoken_tokens,
        )
        cached = {"text_tokens": cached_text, "audio_tokens": cached_sound, "image_tokens": 0}
        read = {"text_tokens": text, "audio_tokens": sound, "image_tokens": 0}
        usage = {
            "total_tokens": charge.input_tokens + charge.output_tokens,
            "input_tokens": charge.input_tokens,
            "output_tokens": charge.output_tokens,
            "input_token_details": {**read, "cached_tokens": charge.cached_tokens, "cached_tokens_details": cached},
            "output_token_details": {"text_tokens": written, "audio_tokens": spoken_tokens},
        }
        return {"usage": usage}, charge


def _texts(item: Object) -> list[str]:
    parts = item.get("content") or []
    return [str(part.get("text") or part.get("transcript") or "") for part in parts if isinstance(part, dict)]


def _merged(old: Object, new: Object) -> Object:
    merged = dict(old)
    for key, value in new.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
