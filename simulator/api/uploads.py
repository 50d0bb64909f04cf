"""Uploads: a large file in parts."""

import hashlib
from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api import files
from simulator.call import Call, Route
from simulator.collection import make_id, now
from simulator.content import Content
from simulator.store import PendingUpload

MOST_BYTES = 8 * 1_024 * 1_024 * 1_024
LIFETIME_SECONDS = 3_600


class _Create(msgspec.Struct, frozen=True):
    filename: str | None = None
    purpose: str | None = None
    bytes: int | None = None
    mime_type: str | None = None


class _Complete(msgspec.Struct, frozen=True):
    part_ids: list[str] | None = None
    md5: str | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Create, required=("filename", "purpose", "bytes", "mime_type"))
    if request.bytes is None or not 0 < request.bytes <= MOST_BYTES:
        raise errors.invalid_request(f"Invalid 'bytes': expected 1 to {MOST_BYTES}.", "bytes")
    upload = PendingUpload(
        {
            "id": make_id("upload_"),
            "object": "upload",
            "bytes": request.bytes,
            "created_at": now(),
            "filename": request.filename,
            "purpose": files.check_purpose(request.purpose or ""),
            "status": "pending",
            "expires_at": now() + LIFETIME_SECONDS,
            "file": None,
        }
    )
    return answer_json(call.store.uploads.add(upload).object)


def add_part(call: Call) -> Answer:
    upload = _pending(call)
    part_id = make_id("part_")
    upload.parts[part_id] = call.multipart().file("data").content
    return answer_json({"id": part_id, "object": "upload.part", "created_at": now(), "upload_id": call.id})


def complete(call: Call) -> Answer:
    upload = _pending(call)
    request = call.decode(_Complete)
    if not request.part_ids:
        raise errors.missing_parameter("part_ids")
    whole, digest = Content(), hashlib.md5(usedforsecurity=False)
    for part_id in request.part_ids:
        if part_id not in upload.parts:
            raise errors.invalid_request(f"Part '{part_id}' does not belong to this upload.", "part_ids")
        for piece in upload.parts[part_id].pieces():
            whole.write(piece)
            digest.update(piece)
    if whole.size != upload.object["bytes"]:
        message = f"The parts have {whole.size} bytes in total; the upload announced {upload.object['bytes']}."
        raise errors.invalid_request(message, "bytes")
    if request.md5 is not None and request.md5 != digest.hexdigest():
        raise errors.invalid_request("The checksum does not match.", "md5")
    facts: Any = upload.object
    kept = files.keep(call.store.files, facts["filename"], facts["purpose"], whole)
    upload.parts.clear()
    facts.update(status="completed", file=kept.object)
    return answer_json(facts)


def cancel(call: Call) -> Answer:
    upload = _pending(call)
    upload.parts.clear()
    upload.object["status"] = "cancelled"
    return answer_json(upload.object)


def _pending(call: Call) -> PendingUpload:
    upload = call.store.uploads.get(call.id)
    if upload.object["status"] != "pending":
        raise errors.invalid_request(f"Upload '{call.id}' is {upload.object['status']}.")
    return upload


ROUTES = (
    Route("POST", "uploads", create),
    Route("POST", "uploads/{id}/parts", add_part),
    Route("POST", "uploads/{id}/complete", complete),
    Route("POST", "uploads/{id}/cancel", cancel),
)
