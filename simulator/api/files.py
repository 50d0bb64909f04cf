"""Files: upload, list, get, content, delete."""

import msgspec

from simulator import errors
from simulator.answers import Answer, FileAnswer, answer_json
from simulator.call import Call, Route
from simulator.collection import Collection, Kept, Object, make_id, now
from simulator.content import Content

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MOST_FILES = 10_000


def upload(call: Call) -> Answer:
    form = call.multipart()
    file = form.file("file")
    purpose = check_purpose(form.required("purpose"))
    kept = keep(call.store.files, file.filename, purpose, file.content)
    seconds = form.integer("expires_after[seconds]")
    if seconds is not None:
        kept.object["expires_at"] = kept.object["created_at"] + seconds
    return answer_json(kept.object, status=201 if call.dated_version else 200)


class _Import(msgspec.Struct, frozen=True):
    purpose: str
    filename: str
    content_url: str


def import_blob(call: Call) -> Answer:
    """Azure-only: create a file from a blob. Nothing is fetched; the content is the blob's URL."""
    request = call.decode(_Import)
    content = Content(request.content_url.encode("utf-8", "replace"))
    kept = keep(call.store.files, request.filename, check_purpose(request.purpose), content)
    return answer_json(kept.object, status=201)


def keep(files: Collection[Kept], filename: str, purpose: str, content: Content) -> Kept:
    """Store an uploaded file. Azure prefixes the ids of assistants' files differently."""
    file: Object = {
        "id": make_id("assistant-" if purpose.startswith("assistants") else "file-"),
        "object": "file",
        "bytes": content.size,
        "created_at": now(),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }
    return files.add(Kept(file, content))


def check_purpose(purpose: str) -> str:
    """Raises AzureError 400."""
    if purpose not in PURPOSES:
        message = f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'"
        raise errors.invalid_request(message, "purpose", "invalid_value")
    return purpose


def list_all(call: Call) -> Answer:
    purpose = call.query.get("purpose")
    return answer_json(
        call.store.files.page(
            call.query, limit=MOST_FILES, most=MOST_FILES, matches=lambda file: purpose in (None, file["purpose"])
        )
    )


def get(call: Call) -> Answer:
    return answer_json(call.store.files.get(call.id).object)


def content(call: Call) -> Answer:
    return file_answer(call.store.files.get(call.id))


def file_answer(kept: Kept, filename: str | None = None) -> FileAnswer:
    return FileAnswer(kept.content.pieces(), kept.content.size, filename or kept.object["filename"])


def delete(call: Call) -> Answer:
    call.store.files.remove(call.id)
    return answer_json({"id": call.id, "object": "file", "deleted": True})


ROUTES = (
    Route("POST", "files", upload),
    Route("POST", "files/import", import_blob, azure_alone=True),
    Route("GET", "files", list_all),
    Route("GET", "files/{id}", get),
    Route("GET", "files/{id}/content", content),
    Route("DELETE", "files/{id}", delete),
)
