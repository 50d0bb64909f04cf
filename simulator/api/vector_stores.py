"""Vector stores: their files, file batches and search."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.call import Call, Route
from simulator.collection import Object, Plain, make_id, now
from simulator.store import Store, VectorStore
from simulator.tokens import tokenize

INDEXING_SECONDS = 0.05
MOST_READ = 200_000
_AUTO = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}}

Attributes = dict[str, str | float | bool]


class _FileInBatch(msgspec.Struct, frozen=True):
    file_id: str
    attributes: Attributes | None = None
    chunking_strategy: Object | None = None


class _Create(msgspec.Struct, frozen=True):
    name: str | None = None
    description: str | None = None
    file_ids: list[str] = []
    expires_after: Object | None = None
    chunking_strategy: Object | None = None
    metadata: dict[str, str] | None = None


class _Update(msgspec.Struct, frozen=True):
    name: str | None = None
    expires_after: Object | None = None
    metadata: dict[str, str] | None = None


class _AddFile(msgspec.Struct, frozen=True):
    file_id: str | None = None
    attributes: Attributes | None = None
    chunking_strategy: Object | None = None


class _UpdateFile(msgspec.Struct, frozen=True):
    attributes: Attributes | None = None


class _AddBatch(msgspec.Struct, frozen=True):
    file_ids: list[str] = []
    files: list[_FileInBatch] = []
    attributes: Attributes | None = None
    chunking_strategy: Object | None = None


class _Search(msgspec.Struct, frozen=True):
    query: str | list[str] | None = None
    max_num_results: int = 10
    rewrite_query: bool = False
    filters: Any = None
    ranking_options: Any = None


def create(call: Call) -> Answer:
    request = call.decode(_Create)
    return answer_json(make(call.store, request.file_ids, request).object)


def make(store: Store, file_ids: list[str], request: _Create | None = None) -> VectorStore:
    """Raises AzureError 404 for an unknown file."""
    request = request or _Create()
    for file_id in file_ids:
        store.files.get(file_id)
    created = now()
    made = VectorStore(
        {
            "id": make_id("vs_"),
            "object": "vector_store",
            "created_at": created,
            "name": request.name,
            "description": request.description,
            "usage_bytes": 0,
            "file_counts": {},
            "status": "completed",
            "expires_after": request.expires_after,
            "expires_at": None,
            "last_active_at": created,
            "metadata": request.metadata or {},
        }
    )
    store.vector_stores.add(made)
    for file_id in file_ids:
        _index(store, made, file_id, None, request.chunking_strategy)
    _count(made)
    return made


def list_all(call: Call) -> Answer:
    return answer_json(call.store.vector_stores.page(call.query))


def get(call: Call) -> Answer:
    return answer_json(call.store.vector_stores.get(call.id).object)


def update(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id).object
    request = call.decode(_Update)
    for name in ("name", "expires_after", "metadata"):
        if (value := getattr(request, name)) is not None:
            vector_store[name] = value
    return answer_json(vector_store)


def delete(call: Call) -> Answer:
    call.store.vector_stores.remove(call.id)
    return answer_json({"id": call.id, "object": "vector_store.deleted", "deleted": True})


def search(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    request = call.decode(_Search)
    if request.query is None:
        raise errors.missing_parameter("query")
    if not 1 <= request.max_num_results <= 50:
        raise errors.invalid_request("Invalid 'max_num_results': expected 1 to 50.", "max_num_results")
    queries = [request.query] if isinstance(request.query, str) else request.query
    return answer_json(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": find(call.store, vector_store, " ".join(queries))[: request.max_num_results],
            "has_more": False,
            "next_page": None,
        }
    )


def find(store: Store, vector_store: VectorStore, query: str) -> list[Object]:
    """Files of a vector store, sorted by the share of the query's words they contain."""
    words = {word.lower() for word in tokenize(query)}
    results: list[Object] = []
    for indexed in vector_store.files:
        file_id = indexed.object["id"]
        if indexed.object["status"] != "completed" or file_id not in store.files:
            continue
        kept = store.files.get(file_id)
        text = kept.content.read(MOST_READ).decode("utf-8", "replace")
        matched = words & {word.lower() for word in tokenize(text)}
        result = {
            "file_id": file_id,
            "filename": kept.object["filename"],
            "score": round(len(matched) / max(1, len(words)), 4),
            "attributes": indexed.object["attributes"],
            "content": [{"type": "text", "text": text[:4_000]}],
        }
        results.append(result)
    return sorted(results, key=lambda result: -float(result["score"]))


def add_file(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    request = call.decode(_AddFile)
    if request.file_id is None:
        raise errors.missing_parameter("file_id")
    indexed = _index(call.store, vector_store, request.file_id, request.attributes, request.chunking_strategy)
    return answer_json(indexed.object)


def list_files(call: Call) -> Answer:
    return answer_json(_files_page(call, call.store.vector_stores.get(call.id), lambda _: True))


def get_file(call: Call) -> Answer:
    return answer_json(call.store.vector_stores.get(call.id).files.get(call.ids[1]).object)


def update_file(call: Call) -> Answer:
    indexed = call.store.vector_stores.get(call.id).files.get(call.ids[1]).object
    indexed["attributes"] = call.decode(_UpdateFile).attributes or {}
    return answer_json(indexed)


def delete_file(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    vector_store.files.remove(call.ids[1])
    _count(vector_store)
    return answer_json({"id": call.ids[1], "object": "vector_store.file.deleted", "deleted": True})


def file_content(call: Call) -> Answer:
    call.store.vector_stores.get(call.id).files.get(call.ids[1])
    text = call.store.files.get(call.ids[1]).content.read(MOST_READ).decode("utf-8", "replace")
    data = [{"type": "text", "text": text}]
    return answer_json({"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None})


def add_batch(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    request = call.decode(_AddBatch)
    if bool(request.file_ids) == bool(request.files):
        raise errors.invalid_request("Exactly one of 'file_ids' and 'files' must be given.", "file_ids")
    files = request.files or [_FileInBatch(file_id, request.attributes) for file_id in request.file_ids]
    for file in files:
        call.store.files.get(file.file_id)
    batch = Plain(
        {
            "id": make_id("vsfb_"),
            "object": "vector_store.file_batch",
            "created_at": now(),
            "vector_store_id": vector_store.object["id"],
            "status": "in_progress",
            "file_counts": {},
            "file_ids": [file.file_id for file in files],
        }
    )
    vector_store.batches.add(batch)
    for file in files:
        _index(call.store, vector_store, file.file_id, file.attributes, file.chunking_strategy)
    _count_batch(vector_store, batch)
    call.store.work.later(INDEXING_SECONDS, lambda: _count_batch(vector_store, batch))
    return answer_json(_public(batch))


def get_batch(call: Call) -> Answer:
    return answer_json(_public(call.store.vector_stores.get(call.id).batches.get(call.ids[1])))


def cancel_batch(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    batch = vector_store.batches.get(call.ids[1])
    if batch.object["status"] == "in_progress":
        for file_id in batch.object["file_ids"]:
            vector_store.files.get(file_id).object["status"] = "cancelled"
        batch.object["status"] = "cancelled"
        _count_batch(vector_store, batch)
    return answer_json(_public(batch))


def list_batch_files(call: Call) -> Answer:
    vector_store = call.store.vector_stores.get(call.id)
    members = vector_store.batches.get(call.ids[1]).object["file_ids"]
    return answer_json(_files_page(call, vector_store, lambda file: file["id"] in members))


def _files_page(call: Call, vector_store: VectorStore, matches: Any) -> Object:
    status = call.query.get("filter")
    return vector_store.files.page(call.query, matches=lambda file: matches(file) and status in (None, file["status"]))


def _index(
    store: Store, vector_store: VectorStore, file_id: str, attributes: Attributes | None, chunking: Object | None
) -> Plain:
    """Add a file to a vector store; it becomes searchable after a delay. Raises AzureError 404."""
    kept = store.files.get(file_id)
    static = chunking if chunking is not None and chunking.get("type") == "static" else _AUTO
    indexed = Plain(
        {
            "id": file_id,
            "object": "vector_store.file",
            "created_at": now(),
            "vector_store_id": vector_store.object["id"],
            "status": "in_progress",
            "usage_bytes": kept.content.size,
            "last_error": None,
            "attributes": attributes or {},
            "chunking_strategy": static,
        }
    )
    vector_store.files.add(indexed)

    def finish() -> None:
        if indexed.object["status"] == "in_progress":
            indexed.object["status"] = "completed"
            _count(vector_store)

    store.work.later(INDEXING_SECONDS, finish)
    _count(vector_store)
    return indexed


def _count(vector_store: VectorStore) -> None:
    counts = _counts(vector_store.files)
    vector_store.object["file_counts"] = counts
    vector_store.object["usage_bytes"] = sum(file.object["usage_bytes"] for file in vector_store.files)
    vector_store.object["status"] = "in_progress" if counts["in_progress"] else "completed"


def _count_batch(vector_store: VectorStore, batch: Plain) -> None:
    members = set(batch.object["file_ids"])
    batch.object["file_counts"] = counts = _counts(file for file in vector_store.files if file.object["id"] in members)
    if batch.object["status"] == "in_progress" and not counts["in_progress"]:
        batch.object["status"] = "completed"


def _counts(files: Any) -> dict[str, int]:
    statuses = [file.object["status"] for file in files]
    named = ("in_progress", "completed", "failed", "cancelled")
    return {status: statuses.count(status) for status in named} | {"total": len(statuses)}


def _public(batch: Plain) -> Object:
    return {name: value for name, value in batch.object.items() if name != "file_ids"}


ROUTES = (
    Route("POST", "vector_stores", create),
    Route("GET", "vector_stores", list_all),
    Route("GET", "vector_stores/{id}", get),
    Route("POST", "vector_stores/{id}", update),
    Route("DELETE", "vector_stores/{id}", delete),
    Route("POST", "vector_stores/{id}/search", search),
    Route("POST", "vector_stores/{id}/files", add_file),
    Route("GET", "vector_stores/{id}/files", list_files),
    Route("GET", "vector_stores/{id}/files/{id}", get_file),
    Route("POST", "vector_stores/{id}/files/{id}", update_file),
    Route("DELETE", "vector_stores/{id}/files/{id}", delete_file),
    Route("GET", "vector_stores/{id}/files/{id}/content", file_content),
    Route("POST", "vector_stores/{id}/file_batches", add_batch),
    Route("GET", "vector_stores/{id}/file_batches/{id}", get_batch),
    Route("POST", "vector_stores/{id}/file_batches/{id}/cancel", cancel_batch),
    Route("GET", "vector_stores/{id}/file_batches/{id}/files", list_batch_files),
)
