"""The simulator's images and sound, as the official client meets them on both surfaces, and what they are charged."""

import base64
from typing import Any

import httpx2
import openai
import pytest

from simulator.process import SimulatorProcess
from tests.harness.programs import recording
from tests.harness.simulated import REGION, Client, totals

PNG = b"\x89PNG\r\n\x1a\n"


def test_an_image_is_a_png_and_is_charged_in_tokens(regions: SimulatorProcess, client: Client) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="a quiet harbour", n=2, quality="low")

    assert answer.data is not None
    pictures = [base64.b64decode(image.b64_json or "") for image in answer.data]
    assert [picture.startswith(PNG) for picture in pictures] == [True, True]
    assert pictures[0] != pictures[1]
    assert answer.usage is not None
    charged = totals(regions)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 544)
    assert (charged["input_tokens"], charged["image_output_tokens"], charged["images"]) == (3, 544, 2)


def test_a_model_that_counts_images_tells_no_usage(regions: SimulatorProcess, client: Client) -> None:
    answer = client.images.generate(model="dall-e-3", prompt="a quiet harbour")

    assert answer.data is not None
    assert (answer.data[0].revised_prompt, answer.usage) == ("a quiet harbour", None)
    assert (answer.data[0].url or "").startswith("https://")
    assert (totals(regions)["images"], totals(regions)["output_tokens"]) == (1, 0)


def test_an_image_is_streamed_in_parts(regions: SimulatorProcess, client: Client) -> None:
    stream = client.images.generate(
        model="gpt-image-1", prompt="a simulate_bytes=1000000", stream=True, partial_images=2
    )
    events = list(stream)

    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert all(len(event.b64_json) > 1_000_000 for event in events)
    last: Any = events[-1]
    assert last.usage.output_tokens == totals(regions)["output_tokens"] == totals(regions)["image_output_tokens"]


def test_images_are_edited_and_varied(regions: SimulatorProcess, client: Client) -> None:
    pictures = [("a.png", PNG, "image/png"), ("b.png", PNG, "image/png")]
    edited = client.images.edit(model="gpt-image-1", image=pictures, prompt="more ships")
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == totals(regions)["image_input_tokens"] == 388
    stream = client.images.edit(model="gpt-image-1", image=pictures[0], prompt="a", stream=True, partial_images=1)
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]
    varied = client.images.create_variation(model="dall-e-3", image=pictures[0], n=2)
    assert len(varied.data or ()) == 2
    assert totals(regions)["images"] == 4
    with pytest.raises(openai.BadRequestError):
        client.images.edit(model="gpt-4o", image=pictures[0], prompt="a")


def test_a_model_beside_the_deployment_of_a_dated_path_is_refused(regions: SimulatorProcess) -> None:
    url = f"{regions.regions[REGION]}/openai/deployments/gpt-image-1/images/edits?api-version=2025-04-01-preview"
    for model, status in (("gpt-image-1", 200), ("another", 404), (None, 200)):
        form = {"prompt": "more ships", **({"model": model} if model else {})}
        files = {"image": ("a.png", PNG, "image/png")}
        headers = {"api-key": regions.api_key}
        assert httpx2.post(url, data=form, files=files, headers=headers).status_code == status


def test_speech_is_streamed_as_bytes_and_charged_by_the_character(regions: SimulatorProcess, client: Client) -> None:
    text = "The toll is paid." * 50
    with client.audio.speech.with_streaming_response.create(model="tts", voice="alloy", input=text) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        pieces = list(answer.iter_bytes())
    again = client.audio.speech.create(model="tts", voice="alloy", input=text, response_format="wav")

    assert len(b"".join(pieces)) == 256 * len(text)
    assert again.read() == b"".join(pieces)
    assert totals(regions)["characters"] == 2 * len(text)
    with pytest.raises(openai.BadRequestError):
        client.audio.speech.create(model="tts", voice="alloy", input="a" * 4_097)


def test_speech_can_be_an_event_stream_with_its_usage(regions: SimulatorProcess, client: Client) -> None:
    given: dict[str, Any] = {
        "model": "gpt-4o-mini-tts",
        "voice": "alloy",
        "input": "hello there",
        "stream_format": "sse",
    }
    answer = client.audio.speech.create(**given)
    events = [line for line in answer.read().decode().split("\n\n") if line]

    assert "speech.audio.delta" in events[0]
    assert "speech.audio.done" in events[-1]
    assert totals(regions)["audio_output_tokens"] == totals(regions)["output_tokens"] == 10
    assert totals(regions)["input_tokens"] == 2


def test_a_recording_is_charged_by_its_length(regions: SimulatorProcess, client: Client) -> None:
    file = recording(2.5)
    plain: Any = client.audio.transcriptions.create(model="whisper", file=file)
    full = client.audio.transcriptions.create(model="whisper", file=file, response_format="verbose_json")
    english = client.audio.translations.create(model="whisper", file=file)
    subtitles: Any = client.audio.transcriptions.create(model="whisper", file=file, response_format="vtt")

    assert plain.text == full.text
    assert english.text != plain.text
    assert full.duration == 2.5
    assert subtitles.startswith("WEBVTT")
    assert totals(regions)["seconds"] == 4 * 2.5


def test_a_transcript_is_streamed_and_charged_in_tokens(regions: SimulatorProcess, client: Client) -> None:
    file = recording()
    whole: Any = client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=file)
    events: list[Any] = list(client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=file, stream=True))

    assert "".join(event.delta for event in events[:-1]) == events[-1].text == whole.text
    assert events[-1].usage.input_token_details.audio_tokens == 10
    assert whole.usage.output_tokens == events[-1].usage.output_tokens == 16
    charged = totals(regions)
    assert (charged["input_tokens"], charged["audio_input_tokens"], charged["output_tokens"]) == (20, 20, 32)


def test_a_form_without_its_file_is_refused(client: Client) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/audio/transcriptions", body={"model": "whisper"}, cast_to=object)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--xx",
        b"--xx\r\nContent-Dispositi",
        b"--xx\r\nContent-Disp\x00osition: form-data; name=a\r\n\r\nb\r\n--xx--\r\n",
        b"--xx\r\nno colon\r\n\r\nb\r\n--xx--\r\n",
        b"--xx\r\n" + b"a" * 20_000 + b": b\r\n\r\nb\r\n--xx--\r\n",
        b'--xx\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n' + b"z" * 100 + b"\r\n--xx--\r\n",
        b'--xx\r\nContent-Disposition: form-data; name="a"\r\nContent-Length: nonsense\r\n\r\nb\r\n--xx--\r\n',
        b'--xx\r\nContent-Disposition: form-data; name="a"\r\nContent-Encoding: nonsense\r\n\r\nb\r\n--xx--\r\n',
    ],
)
def test_a_broken_form_is_refused_in_azures_shape(simulator: SimulatorProcess, body: bytes) -> None:
    headers = {"api-key": simulator.api_key, "content-type": "multipart/form-data; boundary=xx"}
    answer = httpx2.post(f"{simulator.regions[REGION]}/openai/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
