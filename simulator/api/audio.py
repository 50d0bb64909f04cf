"""Audio: speech as streamed bytes, transcriptions and translations, streamed transcripts."""

import base64
import io
import wave
from collections.abc import Iterator
from hashlib import shake_128

import msgspec

from simulator import errors
from simulator.answers import DONE, Answer, Charge, StreamedAnswer, StreamEvent, WholeAnswer, answer_json, data_event
from simulator.call import Call, Route
from simulator.collection import Object
from simulator.content import Content
from simulator.deployments import Deployment
from simulator.forms import Form
from simulator.generation import TOKENS_PER_CHUNK, GeneratedChoice, directive, generate
from simulator.models import Kind
from simulator.tokens import measure

CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
MOST_CHARACTERS = 4_096
BYTES_PER_CHARACTER = 256
CHUNK_BYTES = 4_096
AUDIO_TOKENS_PER_SECOND = 10
BYTES_PER_SECOND = 16_000  # of formats whose duration is not parsed
TRANSCRIPT_TOKENS = 16


class _SpeechRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    input: str | None = None
    voice: str | Object | None = None
    response_format: str = "mp3"
    stream_format: str = "audio"
    instructions: str | None = None


def speak(call: Call) -> Answer:
    call.deployments.check_path()
    request = call.decode(_SpeechRequest)
    deployment = call.deployments.find(request.model)
    text = request.input
    if text is None or request.voice is None:
        raise errors.missing_parameter("input" if text is None else "voice")
    if not 1 <= len(text) <= MOST_CHARACTERS:
        message = f"Invalid 'input': string too long. Expected a string with maximum length {MOST_CHARACTERS}."
        raise errors.invalid_request(message, "input", "string_above_max_length")
    content_type = CONTENT_TYPES.get(request.response_format)
    if content_type is None:
        supported = ", ".join(CONTENT_TYPES)
        message = f"Invalid value: '{request.response_format}'. Supported values are: {supported}."
        raise errors.invalid_request(message, "response_format", "invalid_value")
    _admit(call, deployment, "speech", len(text) // 4)
    sound = _sound(text, directive(text, "bytes") or BYTES_PER_CHARACTER * len(text))
    call.entry.stream = True
    charge = Charge(characters=len(text))
    if deployment.model.name.startswith("gpt-"):
        spoken = AUDIO_TOKENS_PER_SECOND * (1 + len(text) // 15)
        charge = Charge(
            input_tokens=measure(text).tokens,
            output_tokens=spoken,
            audio_output_tokens=spoken,
            characters=len(text),
        )
    if request.stream_format == "sse":
        return StreamedAnswer(_sound_events(sound, charge), charge.opening)
    return StreamedAnswer(_sound_pieces(sound, charge), charge.opening, content_type)


def _sound(text: str, size: int) -> Iterator[bytes]:
    """Deterministic noise for a text."""
    for place in range(0, size, CHUNK_BYTES):
        yield shake_128(f"{text}{place}".encode("utf-8", "replace")).digest(min(CHUNK_BYTES, size - place))


def _sound_pieces(sound: Iterator[bytes], charge: Charge) -> Iterator[StreamEvent]:
    """Charge the output with the first piece."""
    spoken: Charge | None = _written(charge)
    for piece in sound:
        yield StreamEvent("content", piece, spoken)
        spoken = None


def _sound_events(sound: Iterator[bytes], charge: Charge) -> Iterator[StreamEvent]:
    for piece in sound:
        yield data_event("content", {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    usage = {
        "input_tokens": charge.input_tokens,
        "output_tokens": charge.output_tokens,
        "total_tokens": charge.input_tokens + charge.output_tokens,
    }
    yield data_event("closing", {"type": "speech.audio.done", "usage": usage}, _written(charge))


def _written(charge: Charge) -> Charge:
    return Charge(output_tokens=charge.output_tokens, audio_output_tokens=charge.audio_output_tokens)


def transcribe(call: Call) -> Answer:
    return _hear(call, "transcribe")


def translate(call: Call) -> Answer:
    return _hear(call, "translate")


def _hear(call: Call, task: str) -> Answer:
    call.deployments.check_path()
    form = call.multipart()
    deployment = call.deployments.find(form.field("model"))
    sound = form.file("file").content
    response_format = form.field("response_format") or "json"
    if response_format not in TRANSCRIPT_FORMATS:
        message = f"Invalid value: '{response_format}'. Supported values are: {', '.join(TRANSCRIPT_FORMATS)}."
        raise errors.invalid_request(message, "response_format", "invalid_value")
    _admit(call, deployment, "transcription", 0)
    seconds = _seconds(sound)
    prompt = form.field("prompt") or ""
    directions = prompt if directive(prompt, "output_tokens") else f"simulate_output_tokens={TRANSCRIPT_TOKENS}"
    transcript = generate(sound.sha256 + task, 0, None, deployment.model, directions)
    counted = deployment.model.name.startswith("gpt-")
    charge, usage = _transcript_charge(counted, seconds, prompt, transcript)
    call.entry.stream = form.true("stream") and counted  # whisper ignores it
    if call.entry.stream:
        return StreamedAnswer(_transcript_events(transcript, usage), charge.opening)
    return _transcript(call, form, task, transcript, seconds, charge, usage)


def _transcript_charge(
    counted: bool, seconds: float, prompt: str, transcript: GeneratedChoice
) -> tuple[Charge, Object]:
    if not counted:
        return Charge(seconds=seconds), {"type": "duration", "seconds": seconds}
    audio, text = max(1, round(seconds * AUDIO_TOKENS_PER_SECOND)), measure(prompt).tokens
    charge = Charge(
        input_tokens=audio + text,
        audio_input_tokens=audio,
        output_tokens=len(transcript.tokens),
        seconds=seconds,
    )
    usage = {
        "type": "tokens",
        "input_tokens": audio + text,
        "input_token_details": {"text_tokens": text, "audio_tokens": audio},
        "output_tokens": len(transcript.tokens),
        "total_tokens": audio + text + len(transcript.tokens),
    }
    return charge, usage


def _transcript_events(transcript: GeneratedChoice, usage: Object) -> Iterator[StreamEvent]:
    for start in range(0, len(transcript.tokens), TOKENS_PER_CHUNK):
        piece = transcript.tokens[start : start + TOKENS_PER_CHUNK]
        yield data_event(
            "content", {"type": "transcript.text.delta", "delta": "".join(piece)}, Charge(output_tokens=len(piece))
        )
    yield data_event("closing", {"type": "transcript.text.done", "text": transcript.text, "usage": usage})
    yield StreamEvent("closing", DONE)


def _transcript(
    call: Call, form: Form, task: str, transcript: GeneratedChoice, seconds: float, charge: Charge, usage: Object
) -> Answer:
    match form.field("response_format"):
        case "text":
            return _text(transcript.text + "\n", charge)
        case "srt":
            return _text(f"1\n00:00:00,000 --> {_clock(seconds, ',')}\n{transcript.text}\n\n", charge)
        case "vtt":
            return _text(f"WEBVTT\n\n00:00:00.000 --> {_clock(seconds, '.')}\n{transcript.text}\n\n", charge)
        case "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": transcript.text, "tokens": []}
            segment |= {"temperature": 0.0, "avg_logprob": -0.3, "compression_ratio": 1.2, "no_speech_prob": 0.01}
            language = "english" if task == "translate" else form.field("language") or "english"
            facts = {"task": task, "language": language, "duration": seconds, "segments": [segment]}
            content = {**facts, "text": transcript.text}
        case _:
            content = {"text": transcript.text}
    # Whisper reports no usage on the dated surface.
    usage_field = {} if call.dated_version is not None and usage["type"] == "duration" else {"usage": usage}
    return answer_json(content | usage_field, charge)


def _text(text: str, charge: Charge) -> WholeAnswer:
    return WholeAnswer(text.encode(), charge, "text/plain; charset=utf-8")


def _clock(seconds: float, mark: str) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{round(seconds % 1 * 1000) % 1000:03}"


def _seconds(sound: Content) -> float:
    """Duration in seconds: read from a WAV header, estimated from the size for other formats."""
    try:
        with wave.open(io.BytesIO(sound.read())) as file:
            seconds: float = round(file.getnframes() / file.getframerate(), 2)
            return seconds
    except (wave.Error, EOFError, ZeroDivisionError, ValueError):
        return round(max(0.1, sound.size / BYTES_PER_SECOND), 2)


def _admit(call: Call, deployment: Deployment, kind: Kind, estimated_tokens: int) -> None:
    call.deployments.admit(deployment, estimated_tokens)
    if deployment.model.kind != kind:
        raise errors.operation_not_supported(kind, deployment.model.name)


ROUTES = (
    Route("POST", "audio/speech", speak, on_deployment=True, streams=True),
    Route("POST", "audio/transcriptions", transcribe, on_deployment=True),
    Route("POST", "audio/translations", translate, on_deployment=True),
)
