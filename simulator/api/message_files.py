"""Files of Anthropic's API: upload, list, get, content, delete."""

from datetime import UTC, datetime

from simulator import errors
from simulator.answers import Answer, FileAnswer, answer_json
from simulator.api.message_batches import MOST_PER_PAGE, USUAL_PAGE, cursors, moment
from simulator.call import Call, Route
from simulator.collection import Kept, Object, make_id, now


def upload(call: Call) -> Answer:
    form = call.multipart()
    upload_file = form.file("file")
    seconds = form.integer("expires_in_seconds")
    expires = None if seconds is None else datetime.fromtimestamp(now() + seconds, UTC).isoformat()
    file: Object = {
        "id": make_id("file_"),
        "type": "file",
        "created_at": moment(),
        "filename": upload_file.filename,
        "mime_type": upload_file.content_type,
        "size_bytes": upload_file.content.size,
        "downloadable": upload_file.filename.startswith("made_"),  # as if a tool had made it
        "expires_at": expires,
    }
    return answer_json(call.store.claude_files.add(Kept(file, upload_file.content)).object)


def list_all(call: Call) -> Answer:
    query = cursors(call.query)
    if page := call.query.get("page"):
        query["after"] = page.removeprefix("page_")
    listing = call.store.claude_files.page(query, limit=USUAL_PAGE, most=MOST_PER_PAGE)
    following = f"page_{listing['last_id']}" if listing["has_more"] else None
    return answer_json({"data": listing["data"], "next_page": following})


def get(call: Call) -> Answer:
    return answer_json(call.store.claude_files.get(call.id).object)


def content(call: Call) -> Answer:
    kept = call.store.claude_files.get(call.id)
    if not kept.object["downloadable"]:
        raise errors.invalid_request(f"File '{call.id}' is not downloadable.")
    return FileAnswer(kept.content.pieces(), kept.content.size, kept.object["filename"], kept.object["mime_type"])


def delete(call: Call) -> Answer:
    call.store.claude_files.remove(call.id)
    return answer_json({"id": call.id, "type": "file_deleted"})


ROUTES = (
    Route("POST", "anthropic/files", upload),
    Route("GET", "anthropic/files", list_all),
    Route("GET", "anthropic/files/{id}", get),
    Route("GET", "anthropic/files/{id}/content", content),
    Route("DELETE", "anthropic/files/{id}", delete),
)
