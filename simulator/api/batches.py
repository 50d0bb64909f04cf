"""Batches: answers the requests of a file in the background and writes the results to other files."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, Charge, WholeAnswer, answer_json, encode_json
from simulator.api import completions, files, responses
from simulator.call import Call, Handler, Route, decode_json
from simulator.collection import Object, Plain, make_id, now
from simulator.content import Content
from simulator.generation import work_seconds

BATCH_SECONDS = 0.3
MOST_REQUESTS = 10_000
MOST_BYTES = 200 * 1_024 * 1_024

_HANDLERS: dict[str, Handler] = {
    route.path: route.handler for route in (*completions.ROUTES, *responses.ROUTES) if route.method == "POST"
}
ENDPOINTS = ("chat/completions", "completions", "embeddings", "responses")


class _Create(msgspec.Struct, frozen=True):
    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: dict[str, str] | None = None


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    body: msgspec.Raw


class _Answer(msgspec.Struct, frozen=True):
    model: str | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Create, required=("input_file_id", "endpoint", "completion_window"))
    endpoint = (request.endpoint or "").removeprefix("/v1").strip("/")
    if endpoint not in ENDPOINTS:
        raise errors.invalid_request(f"Invalid value: '{request.endpoint}'.", "endpoint", "invalid_value")
    source = call.store.files.get(request.input_file_id or "")
    if source.object["purpose"] != "batch":
        raise errors.invalid_request("The input file must have the purpose 'batch'.", "input_file_id")
    batch = Plain(_batch(request))
    call.store.batches.add(batch)
    lines = [line for line in source.content.read(MOST_BYTES).splitlines() if line.strip()][:MOST_REQUESTS]

    def finish() -> None:
        if batch.object["status"] not in ("cancelling", "cancelled"):
            _complete(call, batch.object, _HANDLERS[endpoint], lines)

    call.store.work.later(work_seconds(request.metadata, BATCH_SECONDS), finish)
    return answer_json(batch.object)


def _batch(request: _Create) -> Object:
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": make_id("batch_"),
        "object": "batch",
        "created_at": now(),
        "completion_window": request.completion_window,
        "endpoint": request.endpoint,
        "input_file_id": request.input_file_id,
        "model": None,
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "expires_at": now() + 86_400,
        "metadata": request.metadata,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "status": "validating",
        "usage": None,
        **{f"{moment}_at": None for moment in moments},
    }


def _complete(call: Call, batch: Object, handler: Handler, lines: list[bytes]) -> None:
    """Answer every line like a single request, and charge the sum to the call that created the batch."""
    answered, refused = Content(), Content()
    total = Charge()
    counts = {"total": len(lines), "completed": 0, "failed": 0}
    for line in lines:
        custom_id, status, body, charge = _answer(call, handler, line)
        response = {"status_code": status, "request_id": make_id(""), "body": msgspec.Raw(body)}
        result: Any = {"id": make_id("batch_req_"), "custom_id": custom_id, "response": response, "error": None}
        (answered if status == 200 else refused).write(encode_json(result) + b"\n")
        counts["completed" if status == 200 else "failed"] += 1
        batch["model"] = batch["model"] or decode_json(body, _Answer).model
        total.charge(charge)
    call.charge_late(total)
    batch.update(status="completed", request_counts=counts, in_progress_at=now(), completed_at=now())
    batch["usage"] = responses.usage_of(total)
    for name, content in (("output_file_id", answered), ("error_file_id", refused)):
        if content.size:
            kept = files.keep(call.store.files, f"{batch['id']}_{name[:-8]}.jsonl", "batch", content)
            kept.object["purpose"] = "batch_output"
            batch[name] = kept.object["id"]


def _answer(call: Call, handler: Handler, line: bytes) -> tuple[str, int, bytes, Charge]:
    custom_id = ""
    try:
        request = decode_json(line, _Line)
        custom_id = request.custom_id
        answer = handler(call.with_body(bytes(request.body)))
        if not isinstance(answer, WholeAnswer):
            raise errors.invalid_request("A batch cannot contain streaming requests.", "stream")
        return custom_id, answer.status, answer.body, answer.charge or Charge()
    except errors.AzureError as refusal:
        return custom_id, refusal.status, refusal.body, Charge()


def list_all(call: Call) -> Answer:
    return answer_json(call.store.batches.page(call.query))


def get(call: Call) -> Answer:
    batch = call.store.batches.get(call.id).object
    if batch["status"] == "cancelling":
        batch.update(status="cancelled", cancelled_at=now())
    return answer_json(batch)


def cancel(call: Call) -> Answer:
    batch = call.store.batches.get(call.id).object
    if batch["status"] not in ("validating", "in_progress"):
        raise errors.invalid_request(f"Cannot cancel a batch with status '{batch['status']}'.")
    batch.update(status="cancelling", cancelling_at=now())
    return answer_json(batch)


ROUTES = (
    Route("POST", "batches", create),
    Route("GET", "batches", list_all),
    Route("GET", "batches/{id}", get),
    Route("POST", "batches/{id}/cancel", cancel),
)
