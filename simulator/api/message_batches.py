"""Message batches: answers the requests of a batch in the background, and keeps their results. Anthropic has them,
Foundry resources do not."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from simulator import errors, messages_errors
from simulator.answers import Answer, Charge, FileAnswer, WholeAnswer, answer_json, encode_json
from simulator.api import messages
from simulator.call import Call, Route, decode_json
from simulator.collection import Object, make_id, now
from simulator.content import Content
from simulator.store import MessageBatch

BATCH_SECONDS = 0.3
MOST_REQUESTS = 100_000
USUAL_PAGE, MOST_PER_PAGE = 20, 1000
EXPIRED_WORD = "simulate_expired"
HELD_WORD = "simulate_held"  # a batch with this word in its first request ends only when it is canceled
_RESULTS = "https://api.anthropic.com/v1/messages/batches/{}/results"
_OUTCOMES = ("succeeded", "errored", "canceled", "expired")


class _Request(msgspec.Struct, frozen=True):
    custom_id: str
    params: msgspec.Raw


class _Create(msgspec.Struct, frozen=True):
    requests: list[_Request] | None = None


def create(call: Call) -> Answer:
    requests = call.decode(_Create).requests
    if not requests:
        raise messages_errors.required("requests")
    if len(requests) > MOST_REQUESTS:
        raise errors.invalid_request(f"requests: List should have at most {MOST_REQUESTS} items.")
    if len({one.custom_id for one in requests}) < len(requests):
        raise errors.invalid_request("requests: custom_id must be unique within a batch.")
    requests = [_Request(one.custom_id, msgspec.Raw(bytes(one.params))) for one in requests]
    batch = MessageBatch(_batch(len(requests)), end=lambda: _end(call, batch, requests))
    call.store.message_batches.add(batch)
    if HELD_WORD.encode() not in bytes(requests[0].params):
        call.store.work.later(BATCH_SECONDS, batch.end)
    return answer_json(batch.object)


def moment(seconds: int = 0) -> str:
    """A time as Anthropic writes it, so many seconds from now."""
    return (datetime.fromtimestamp(now(), UTC) + timedelta(seconds=seconds)).isoformat()


def _batch(requests: int) -> Object:
    return {
        "id": make_id("msgbatch_"),
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": {"processing": requests, **dict.fromkeys(_OUTCOMES, 0)},
        "created_at": moment(),
        "expires_at": moment(86_400),
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
    }


def _end(call: Call, batch: MessageBatch, requests: list[_Request]) -> None:
    """Answer every request like a single one, unless the batch was canceled, and charge the sum to the call that
    created the batch."""
    if batch.results is not None:
        return
    about, lines, total = batch.object, Content(), Charge()
    canceled, counts = about["processing_status"] == "canceling", Counter[str]()
    for one in requests:
        result: Object = {"type": "canceled"} if canceled else _result(call, bytes(one.params), total)
        counts[result["type"]] += 1
        lines.write(encode_json({"custom_id": one.custom_id, "result": result}) + b"\n")
    call.charge_late(total)
    batch.results = lines
    about.update(processing_status="ended", ended_at=moment(), results_url=_RESULTS.format(about["id"]))
    about["request_counts"] = {"processing": 0, **{name: counts[name] for name in _OUTCOMES}}


def _result(call: Call, params: bytes, total: Charge) -> Object:
    if EXPIRED_WORD.encode() in params:
        return {"type": "expired"}
    try:
        answer = messages.create(call.with_body(params))
        if not isinstance(answer, WholeAnswer):
            raise errors.invalid_request("stream: not supported in a batch.")
    except (errors.AzureError, TypeError, AttributeError, KeyError, ValueError) as error:
        refusal = error if isinstance(error, errors.AzureError) else errors.invalid_request("A value is wrong.")
        body = messages_errors.as_message_error(refusal.status, refusal.body, make_id("req_"))
        return {"type": "errored", "error": msgspec.Raw(body)}
    message = decode_json(answer.body, dict[str, Any])
    message["usage"]["service_tier"] = "batch"
    total.charge(answer.charge or Charge())
    return {"type": "succeeded", "message": message}


def cursors(query: Mapping[str, str]) -> dict[str, str]:
    """The query of a list, in the words of `Collection.page`."""
    named = {"after": query.get("after_id"), "before": query.get("before_id"), "limit": query.get("limit")}
    return {name: value for name, value in named.items() if value is not None}


def list_all(call: Call) -> Answer:
    listing = call.store.message_batches.page(cursors(call.query), limit=USUAL_PAGE, most=MOST_PER_PAGE)
    return answer_json({name: listing[name] for name in ("data", "has_more", "first_id", "last_id")})


def get(call: Call) -> Answer:
    return answer_json(call.store.message_batches.get(call.id).object)


def cancel(call: Call) -> Answer:
    batch = call.store.message_batches.get(call.id)
    if batch.object["processing_status"] == "in_progress":
        batch.object.update(processing_status="canceling", cancel_initiated_at=moment())
        call.store.work.later(BATCH_SECONDS, batch.end)
    return answer_json(batch.object)


def delete(call: Call) -> Answer:
    if call.store.message_batches.get(call.id).results is None:
        raise errors.invalid_request("Message Batch cannot be deleted while processing. Cancel it first.")
    call.store.message_batches.remove(call.id)
    return answer_json({"id": call.id, "type": "message_batch_deleted"})


def results(call: Call) -> Answer:
    lines = call.store.message_batches.get(call.id).results
    if lines is None:
        raise errors.object_not_found("The results of this Message Batch are not available: it has not ended.")
    return FileAnswer(lines.pieces(), lines.size, "results.jsonl", "application/x-jsonl")


ROUTES = (
    Route("POST", "anthropic/messages/batches", create, anthropic_alone=True),
    Route("GET", "anthropic/messages/batches", list_all, anthropic_alone=True),
    Route("GET", "anthropic/messages/batches/{id}", get, anthropic_alone=True),
    Route("DELETE", "anthropic/messages/batches/{id}", delete, anthropic_alone=True),
    Route("POST", "anthropic/messages/batches/{id}/cancel", cancel, anthropic_alone=True),
    Route("GET", "anthropic/messages/batches/{id}/results", results, anthropic_alone=True),
)
