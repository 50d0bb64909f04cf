"""Images: generations, edits, variations; streamed with partial images."""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, Charge, StreamedAnswer, StreamEvent, answer_json, typed_event
from simulator.call import Call, Route
from simulator.collection import Object, now
from simulator.forms import Form
from simulator.generation import FILTERED_WORD, directive
from simulator.models import Model
from simulator.tokens import measure

MOST_IMAGES = 10
MOST_PARTIAL = 3
IMAGE_INPUT_TOKENS = 194
# Output tokens per image and quality, for models that are billed by tokens.
OUTPUT_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160, "auto": 1_056}
SIDE = 8  # pixels: clients parse the format and ignore the picture


class _Request(msgspec.Struct, frozen=True):
    prompt: str | None = None
    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    stream: bool | None = None
    partial_images: int | None = None


def generate(call: Call) -> Answer:
    return _answer(call, call.decode(_Request), 0, "image_generation", "ImageGenerations")


def edit(call: Call) -> Answer:
    form = call.multipart()
    form.file("image")
    inputs = len(form.files["image"]) + len(form.files.get("mask", ()))
    form.required("prompt")
    return _answer(call, _from_form(form), inputs, "image_edit", "ImageEdits")


def vary(call: Call) -> Answer:
    form = call.multipart()
    form.file("image")
    return _answer(call, msgspec.structs.replace(_from_form(form), prompt=""), 1, "image_variation", "ImageVariations")


def _from_form(form: Form) -> _Request:
    return _Request(
        prompt=form.field("prompt"),
        model=form.field("model"),
        n=form.integer("n"),
        size=form.field("size"),
        quality=form.field("quality"),
        response_format=form.field("response_format"),
        output_format=form.field("output_format"),
        stream=form.true("stream"),
        partial_images=form.integer("partial_images"),
    )


def _answer(call: Call, request: _Request, inputs: int, event: str, operation: str) -> Answer:
    call.deployments.check_path()
    call.entry.stream = bool(request.stream)
    deployment = call.deployments.find(request.model)
    if request.model is not None and request.model != deployment.name:  # a dated path knows deployments only
        raise errors.deployment_not_found()
    prompt = request.prompt
    if prompt is None:
        raise errors.missing_parameter("prompt")
    count = 1 if request.n is None else request.n
    if not 1 <= count <= MOST_IMAGES:
        raise errors.invalid_request(f"Invalid 'n': expected 1 to {MOST_IMAGES}.", "n", "integer_out_of_range")
    partial = request.partial_images or 0
    if not 0 <= partial <= MOST_PARTIAL:
        raise errors.invalid_request(f"Invalid 'partial_images': expected 0 to {MOST_PARTIAL}.", "partial_images")
    call.deployments.admit(deployment, len(prompt) // 4)
    model = deployment.model
    if model.kind != "images":
        raise errors.operation_not_supported(operation, model.name)
    if FILTERED_WORD in prompt:
        raise errors.content_filtered(0)
    charge, usage = _charge(model, request, count, inputs, prompt)
    if not request.stream:
        data = [_image(request, model, prompt, index) for index in range(count)]
        return answer_json({"created": now(), "data": data} | _facts(request, usage), charge)
    if usage is None:
        raise errors.unsupported_parameter("stream", "gpt-image-1")
    return StreamedAnswer(_events(request, prompt, event, partial, usage, charge), charge.opening, typed=True)


def _charge(model: Model, request: _Request, count: int, inputs: int, prompt: str) -> tuple[Charge, Object | None]:
    """The charge, and the reported usage. Models that are billed by the image report none."""
    if not model.name.startswith("gpt-image"):
        return Charge(images=count), None
    text, image = measure(prompt).tokens, IMAGE_INPUT_TOKENS * inputs
    output = OUTPUT_TOKENS.get(request.quality or "auto", OUTPUT_TOKENS["auto"]) * count
    charge = Charge(
        input_tokens=text + image,
        image_input_tokens=image,
        output_tokens=output,
        image_output_tokens=output,
        images=count,
    )
    usage = {
        "input_tokens": text + image,
        "input_tokens_details": {"image_tokens": image, "text_tokens": text},
        "output_tokens": output,
        "output_tokens_details": {"image_tokens": output, "text_tokens": 0},
        "total_tokens": text + image + output,
    }
    return charge, usage


def _facts(request: _Request, usage: Object | None) -> Object:
    if usage is None:
        return {}
    return {
        "background": "opaque",
        "output_format": request.output_format or "png",
        "quality": request.quality or "medium",
        "size": request.size or "1024x1024",
        "usage": usage,
    }


def _image(request: _Request, model: Model, prompt: str, index: int) -> Object:
    revised = {} if model.name.startswith("gpt-image") else {"revised_prompt": prompt}
    if request.response_format == "url" or (revised and request.response_format is None):
        return {"url": f"https://images.invalid/{index}.png", **revised}
    return {"b64_json": _png(prompt, index), **revised}


def _events(
    request: _Request, prompt: str, event: str, partial: int, usage: Object, charge: Charge
) -> Iterator[StreamEvent]:
    facts = _facts(request, usage) | {"created_at": now()}
    del facts["usage"]
    for index in range(partial):
        picture = {"b64_json": _png(prompt, index), "partial_image_index": index}
        content: Any = {"type": f"{event}.partial_image", **facts, **picture}
        yield typed_event("content", content["type"], content)
    done: Any = {"type": f"{event}.completed", **facts, "b64_json": _png(prompt, partial), "usage": usage}
    written = Charge(
        output_tokens=charge.output_tokens, image_output_tokens=charge.image_output_tokens, images=charge.images
    )
    yield typed_event("closing", done["type"], done, written)


def _png(prompt: str, index: int) -> str:
    """A PNG of one colour, padded by the N bytes of the prompt's `simulate_bytes=N`."""
    colour = zlib.crc32(f"{prompt}{index}".encode("utf-8", "replace")).to_bytes(4)[:3]
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + colour * SIDE) * SIDE)
    padding = b"Comment\0" + b"." * (directive(prompt, "bytes") or 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"tEXt", padding), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks
    )
    return base64.b64encode(png).decode()


ROUTES = (
    Route("POST", "images/generations", generate, on_deployment=True),
    Route("POST", "images/edits", edit, on_deployment=True),
    Route("POST", "images/variations", vary),
)
