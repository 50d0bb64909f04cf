"""Multipart bodies: relayed while they arrive, with the model renamed, bounded in size, memory and time."""

import asyncio
import io
import itertools
import json
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.azure_openai import multipart
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.multipart import FormModel
from shared.errors import InvalidRequest, RequestTimeout, RequestTooLarge
from shared.requests._deadline import BodyDeadline
from shared.requests.buffers import Buffers
from shared.requests.disconnect import CallerDisconnected
from shared.requests.upload import Upload
from tests.harness.hostile_forms import hostile
from tests.harness.system import System

BOUNDARY = "x-boundary"
USUAL = f"multipart/form-data; boundary={BOUNDARY}"
HEADERS = {"content-type": USUAL}
NOISE = random.Random(3).randbytes(40_000) + b"\r\n--x-bound" + b"\r\n\r\n"


def part(value: bytes, disposition: str) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"


FILE = part(NOISE, 'name="file"; filename="model.wav"')
MODEL = part(b"whisper", 'name="model"')
END = f"--{BOUNDARY}--\r\n".encode()
BODIES = {"before": MODEL + FILE + END, "behind": FILE + MODEL + END, "alone": MODEL + END}


def receiving(chunks: list[bytes]) -> Any:
    """ASGI's `receive` for a body in these chunks."""
    left = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    left.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        await asyncio.sleep(0)
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


async def nobody_is_asked() -> None: ...


def opened(receive: Any, headers: dict[str, str], most: int, seconds: float) -> Upload:
    deadline = BodyDeadline(seconds, nobody_is_asked)
    return Upload(receive, headers, most, deadline, Buffers(2**30).open("ann"))


async def read_all(upload: Upload) -> None:
    await upload.find_model()
    await everything(upload.stream(None))


async def everything(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(sorted(BODIES)), cuts=st.sets(st.integers(1, 41_000), max_size=12), name=st.binary(max_size=9)
)
def test_the_model_is_renamed_in_its_place_and_no_other_byte_changes(order: str, cuts: set[int], name: bytes) -> None:
    body = BODIES[order]
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(places)]

    async def relayed() -> None:
        upload = opened(receiving(chunks), HEADERS | {"content-length": str(len(body))}, 10**6, 60)
        assert await upload.find_model() == "whisper"
        expected = body.replace(MODEL, MODEL.replace(b"whisper", name))
        for _ in range(2):  # a second backend gets the same
            assert await everything(upload.stream(FormModel(name))) == expected
        assert upload.length(FormModel(name)) == len(expected)
        assert await everything(upload.stream(None)) == body
        upload.close()

    asyncio.run(relayed())


@settings(max_examples=200, deadline=None)
@given(
    order=st.sampled_from([*sorted(BODIES), "none"]),
    cuts=st.sets(st.integers(1, 41_000), max_size=12),
    near=st.sets(st.integers(-90, 90), max_size=12),
    required=st.booleans(),
)
def test_the_model_of_the_path_stands_in_the_form_once_wherever_the_form_has_its_own(
    order: str, cuts: set[int], near: set[int], *, required: bool
) -> None:
    body = BODIES.get(order, FILE + END)
    edges = cuts | {place + shift for shift in near for place in (len(MODEL), len(FILE), len(FILE + MODEL))}
    places = [0, *sorted(edge for edge in edges if 0 < edge < len(body)), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(places)]
    prod, field = FormModel(b"prod", required=required), MODEL.replace(b"whisper", b"prod")
    in_place = body.replace(MODEL, field)

    async def relayed() -> None:
        upload = opened(receiving(chunks), HEADERS | {"content-length": str(len(body))}, 10**6, 60)
        await upload.begin_with_model()
        length = upload.length(prod)
        sent = await everything(upload.stream(prod))
        assert sent in (in_place, field + body.replace(MODEL, b"") if required else in_place)
        assert length in (None, len(sent))
        assert sent.count(b'name="model"') == (order != "none" or required)
        again = await everything(upload.stream(prod))  # by now the field is known
        assert again == (field + body if required and order == "none" else in_place)
        assert upload.length(prod) == len(again)
        upload.close()

    asyncio.run(relayed())


async def test_a_form_of_any_size_passes_in_little_memory_if_its_model_is_in_the_path() -> None:
    piece = bytes(2**20)
    begin = FILE.replace(NOISE + b"\r\n", b"")
    left = itertools.chain([begin], itertools.repeat(piece, 70), [b"\r\n" + MODEL + END])

    async def receive() -> Any:
        await asyncio.sleep(0)
        chunk = next(left, b"")
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    upload = opened(receive, HEADERS, 2**30, 60)
    await upload.begin_with_model()
    size, before, peak = 0, psutil.Process().memory_info().rss, 0
    async for passed in upload.stream(FormModel(b"prod")):
        size += len(passed)
        peak = max(peak, psutil.Process().memory_info().rss)
    assert size == 70 * 2**20 + len(MODEL.replace(b"whisper", b"prod") + begin + b"\r\n" + END)
    assert not upload.repeatable  # it is too long to be kept
    assert peak - before < 20 * 2**20
    upload.close()


@pytest.mark.parametrize("behind", [MODEL + MODEL, part(b"x" * 5000, 'name="model"'), part(b"x", 'name="Model[]"')])
async def test_a_form_whose_later_model_is_ambiguous_ends_with_the_reason(behind: bytes) -> None:
    upload = opened(receiving([FILE[:9000], FILE[9000:], behind + END]), HEADERS, 10**6, 60)
    await upload.begin_with_model()
    with pytest.raises(InvalidRequest):
        await everything(upload.stream(FormModel(b"prod")))
    assert isinstance(upload.error, InvalidRequest)
    upload.close()


STREAM = part(b"true", 'name="stream"')


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        (STREAM + END, True),
        (FILE + STREAM + END, True),
        (part(b"False", 'name="stream"') + STREAM + END, False),  # the first counts
        (part(b"x" * 5000, 'name="stream"') + END, False),
        (part(b"true", 'name="streams"') + END, False),
        (
            part(b"x", 'name="file"; filename="a name=stream.wav"\r\nContent-Type: application/octet-stream') + END,
            False,
        ),
        (END, False),
    ],
)
async def test_a_form_that_asks_for_a_stream_is_recognized_and_no_byte_changes(body: bytes, streams: bool) -> None:
    for cut in (1, 7, 60, 5000, len(body)):
        pieces = [body[start : start + cut] for start in range(0, len(body), cut)]
        upload = opened(receiving(pieces), HEADERS, 10**6, 60)
        await upload.begin_with_model()
        assert await everything(upload.stream(None)) == body
        assert (upload.asks_for_stream, upload.complete) == (streams, True)
        upload.close()


@pytest.mark.parametrize(
    "body",
    [
        MODEL + MODEL + END,
        part(b"mini", 'filename="; name=\\"model\\""; name="file"') + MODEL + END,
        part(b"x" * 5000, 'name="model"') + END,
        part(b"\xff", 'name="model"') + END,
        f"--{BOUNDARY}\r\nx: ".encode() + b"y" * 20_000,
    ],
)
async def test_an_ambiguous_body_is_rejected(body: bytes) -> None:
    upload = opened(receiving([body]), HEADERS, 10**6, 60)
    with pytest.raises(InvalidRequest):
        await read_all(upload)
    upload.close()


@pytest.mark.parametrize("odd", hostile("model", b"whisper"))
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_form_that_two_readers_may_read_differently_is_rejected(odd: str, size: int) -> None:
    kind, body = hostile("model", b"whisper")[odd]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    with pytest.raises(InvalidRequest):
        upload = opened(receiving(pieces), {"content-type": kind}, 10**6, 60)
        try:
            await read_all(upload)
        finally:
            upload.close()


CLIENTS = {
    "httpx": (USUAL, part(b"x", 'name="file"; filename="a b.wav"\r\nContent-Type: audio/wav')),
    "curl": (
        "multipart/form-data; boundary=------------------------x-boundary",
        part(b"x", 'name="file"; filename="a.wav"\r\nContent-Type: application/octet-stream').replace(
            b"--x-boundary", b"--------------------------x-boundary"
        ),
    ),
    ".NET": (
        'multipart/form-data; boundary="x-boundary"',
        part(b"x", "name=file; filename=a.wav; filename*=utf-8''a.wav"),
    ),
    "Java": (
        "multipart/form-data; charset=ISO-8859-1; boundary=x-boundary",
        part(b"x", 'name="file"; filename="a.wav"\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 1'),
    ),
    "a browser": (USUAL, part(b"x", 'name="file"; filename="\u00e4 %22.wav"\r\nContent-Type: audio/wav')),
    "no line end behind it": (USUAL, part(b"x", 'name="file"; filename="a.wav"')),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_forms_of_usual_clients_are_read(client: str) -> None:
    kind, file = CLIENTS[client]
    end = END.rstrip(b"\r\n") if client == "no line end behind it" else END
    model, end = (b"-" * 24 + MODEL, b"-" * 24 + end) if client == "curl" else (MODEL, end)
    for body in (model + file + end, file + model + end, file * 2 + model + end):
        for size in (1, 9, len(body)):
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            upload = opened(receiving(pieces), {"content-type": kind, "content-length": str(len(body))}, 10**6, 60)
            assert await upload.find_model() == "whisper"
            assert await everything(upload.stream(FormModel(b"renamed"))) == body.replace(b"whisper", b"renamed")
            upload.close()


async def test_a_boundary_inside_of_a_line_is_content() -> None:
    body = part(b"a--x-boundary--\r\n\r\n", 'name="file"; filename="a"') + MODEL + END
    upload = opened(receiving([body]), HEADERS, 10**6, 60)
    assert await upload.find_model() == "whisper"
    upload.close()


def test_many_small_parts_are_refused_in_little_time() -> None:
    fields = multipart.FormFields(b"b", (b"model",))
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="more than 1000 parts"):
        fields.feed(b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 100_000)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("odd", hostile("model", b"whisper"))
def test_a_hostile_form_reaches_no_backend(gateway: System, odd: str) -> None:
    kind, body = hostile("model", b"whisper")[odd]
    for path in ("/v1/audio/transcriptions", "/openai/deployments/whisper/audio/transcriptions?api-version=2024-10-21"):
        answer = gateway.post(path, body, {"content-type": kind})
        assert (answer.status, answer.error()["type"]) == (400, "invalid_request_error"), answer.body
        assert gateway.simulator.log()["requests"] == []


@pytest.mark.parametrize("odd", hostile("file_id", b"file-foreign"))
def test_a_hostile_form_names_no_file_of_a_container(gateway: System, odd: str) -> None:
    kind, body = hostile("file_id", b"file-foreign")[odd]
    with gateway.openai() as client:
        container = client.containers.create(name="mine").id
    answer = gateway.post(f"/v1/containers/{container}/files", body, {"content-type": kind})
    assert (answer.status, answer.error()["type"]) == (400, "invalid_request_error"), answer.body


def test_the_content_type_of_a_form_is_written_by_the_gateway(gateway: System) -> None:
    body = part(b"x", 'name="file"; filename="a.wav"') + MODEL + END
    given = 'Multipart/Form-Data;boundary="x-boundary";charset=utf-8'
    assert gateway.post("/v1/audio/transcriptions", body, {"content-type": given}).status == 200
    headers = {name.lower(): value for name, value in gateway.simulator.last_headers()}
    assert headers["content-type"] == f"multipart/form-data; boundary={BOUNDARY}"


async def test_a_form_cannot_name_a_file_for_a_container() -> None:
    upload = opened(receiving([part(b"file-of-another", 'name="file_id"') + END]), HEADERS, 10**6, 60)
    upload.forbid("file_id")
    with pytest.raises(InvalidRequest, match="file_id"):
        await everything(upload.stream(None))
    assert isinstance(upload.error, InvalidRequest)
    upload.close()


BATCH_LINE = b'{"url":"/v1/embeddings","body":{"model":"m","input":"hi"}}\n'


async def test_other_calls_have_their_turns_while_the_file_of_a_batch_is_scanned() -> None:
    lines, turns = BATCH_LINE * 20_000, 0
    body = part(b"batch", 'name="purpose"') + part(lines, 'name="file"; filename="a.jsonl"') + END

    async def receive() -> Any:  # all is there already
        return {"type": "http.request", "body": body, "more_body": False}

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    upload = opened(receive, HEADERS, 2**30, 60)
    upload.scan_lines()
    waiting = asyncio.create_task(others())
    assert await everything(upload.stream(None)) == body
    waiting.cancel()
    assert upload.batch_size() == BatchSize(20_000 * len(b'{"model":"m","input":"hi"}'), 0, "m")
    upload.close()
    assert turns > 10


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_file_is_scanned_as_a_whole_however_its_form_is_cut(size: int) -> None:
    count = 8000 if size > 1000 else 20
    body = part(BATCH_LINE * count, 'name="file"; filename="a.jsonl"') + part(b"batch", 'name="purpose"') + END
    upload = opened(receiving([body[start : start + size] for start in range(0, len(body), size)]), HEADERS, 2**30, 60)
    upload.scan_lines()
    assert await everything(upload.stream(None)) == body
    size_of_batch = upload.batch_size()
    upload.close()
    assert size_of_batch is not None
    assert size_of_batch.bytes == count * len(b'{"model":"m","input":"hi"}')


async def test_a_body_that_is_too_large_slow_or_cut_is_an_error() -> None:
    with pytest.raises(RequestTooLarge):
        opened(receiving([]), HEADERS | {"content-length": "1001"}, 1000, 60)
    upload = opened(receiving([FILE[:600], b"x" * 600]), HEADERS, 1000, 60)
    with pytest.raises(RequestTooLarge):
        await everything(upload.stream(None))
    upload.close()

    async def trickle() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"-", "more_body": True}

    upload = opened(trickle, HEADERS, 1000, 0.1)
    with pytest.raises(RequestTimeout):
        await everything(upload.stream(None))
    upload.close()

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    upload = opened(gone, HEADERS, 1000, 1)
    with pytest.raises(CallerDisconnected):
        await everything(upload.stream(None))
    upload.close()


@pytest.mark.parametrize(
    "text", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"]
)
def test_a_multipart_body_needs_its_boundary(text: str) -> None:
    with pytest.raises(InvalidRequest):
        multipart.boundary(text)


def test_a_large_file_is_relayed_both_ways_in_little_memory(gateway: System) -> None:
    size = 40_000_000
    process = psutil.Process(gateway.gateway.pid)
    with gateway.openai(gateway.make_key("large files")) as client:
        client.files.create(file=("warm.txt", b"warm"), purpose="assistants")
        before = process.memory_info().rss
        content = random.Random(1).randbytes(size)
        file = client.files.create(file=("large.bin", io.BytesIO(content)), purpose="assistants")
        assert file.bytes == size
        assert client.files.content(file.id).read() == content
        client.files.delete(file.id)
    assert process.memory_info().rss - before < 30_000_000


def test_a_body_over_the_limit_is_rejected_before_it_is_sent(gateway: System) -> None:
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {2**40}\r\n\r\n"
    )
    with socket.create_connection(gateway.gateway.address, timeout=10) as connection:
        connection.sendall(head.encode())
        refused = b" 500 " if gateway.edge == "functions" else b" 413 "  # there the host answers, by its own limit
        assert refused in connection.recv(65_536)


def test_a_multipart_call_without_a_model_is_a_bad_request(gateway: System) -> None:
    answer = gateway.post("/v1/audio/transcriptions", FILE + END, HEADERS)
    assert (answer.status, answer.error()["code"]) == (400, "missing_model")
    answer = gateway.post("/v1/audio/transcriptions", json.dumps({"model": "whisper"}).encode()[:-1])
    assert answer.status == 400


PICTURE = part(NOISE * 10, 'name="image"; filename="a.png"\r\nContent-Type: image/png')
PROMPT = part(b"a ship", 'name="prompt"')
PAINTER = part(b"gpt-image-1", 'name="model"')  # its deployment is called `painter`
OTHER = part(b"gpt-4o", 'name="model"')
EDITS = "/openai/deployments/gpt-image-1/images/edits?api-version=2025-04-01-preview"


@pytest.mark.parametrize("path", [EDITS, "/gateway/images/edits/gpt-image-1", "/openai/v1/images/edits"])
@pytest.mark.parametrize(
    "form",
    [PAINTER + PICTURE + PROMPT, PICTURE + PAINTER + PROMPT, PROMPT + PICTURE + PAINTER],
    ids=["first", "between", "last"],
)
def test_a_model_in_a_form_becomes_the_deployment_on_every_path(gateway: System, path: str, form: bytes) -> None:
    answer = gateway.post(path, form + END, HEADERS)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("path", [EDITS, "/gateway/images/edits/gpt-image-1"])
@pytest.mark.parametrize(
    "form", [PICTURE + PROMPT, OTHER + PICTURE + PROMPT, PICTURE + PROMPT + OTHER], ids=["none", "first", "last"]
)
def test_the_model_of_the_path_counts_whatever_the_form_says(gateway: System, path: str, form: bytes) -> None:
    key = gateway.make_key("a painter", models=["gpt-image-1"])
    answer = gateway.post(path, form + END, HEADERS, key=key)
    assert answer.status == 200, answer.body
    [entry] = gateway.simulator.log()["requests"]
    assert entry["deployment"] == "painter"


def test_a_file_of_more_than_can_be_kept_is_tried_with_its_model_in_path_and_form(gateway: System) -> None:
    file = part(bytes(66 * 2**20), 'name="file"; filename="a.wav"')
    answer = gateway.post("/gateway/audio/transcriptions/whisper", file + MODEL + END, HEADERS)
    assert answer.status == 200, answer.body
    answer = gateway.post("/gateway/audio/transcriptions/whisper", file + MODEL + MODEL + END, HEADERS)
    assert (answer.status, answer.error()["param"]) == (400, "model")
