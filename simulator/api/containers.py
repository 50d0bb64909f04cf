"""Containers of the code interpreter, and their files."""

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.api.files import file_answer
from simulator.call import Call, Route
from simulator.collection import Kept, Object, make_id, now
from simulator.content import Content
from simulator.store import Container


class _Create(msgspec.Struct, frozen=True):
    name: str | None = None
    file_ids: list[str] = []
    expires_after: Object | None = None


class _AddFile(msgspec.Struct, frozen=True):
    file_id: str | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Create)
    if request.name is None:
        raise errors.missing_parameter("name")
    files = [call.store.files.get(file_id) for file_id in request.file_ids]
    container = new_container(request.name, request.expires_after)
    for kept in files:
        put_file(container, kept.object["filename"], kept.content, "user")
    return answer_json(call.store.containers.add(container).object)


def new_container(name: str, expires_after: Object | None = None) -> Container:
    created = now()
    return Container(
        {
            "id": make_id("cntr_"),
            "object": "container",
            "created_at": created,
            "status": "running",
            "expires_after": expires_after or {"anchor": "last_active_at", "minutes": 20},
            "last_active_at": created,
            "name": name,
        }
    )


def list_all(call: Call) -> Answer:
    return answer_json(call.store.containers.page(call.query))


def get(call: Call) -> Answer:
    return answer_json(call.store.containers.get(call.id).object)


def delete(call: Call) -> Answer:
    call.store.containers.remove(call.id)
    return answer_json({"id": call.id, "object": "container.deleted", "deleted": True})


def add_file(call: Call) -> Answer:
    container = call.store.containers.get(call.id)
    if call.form is not None:
        file = call.form.file("file")
        return answer_json(put_file(container, file.filename, file.content, "user").object)
    request = call.decode(_AddFile)
    if request.file_id is None:
        raise errors.missing_parameter("file_id")
    kept = call.store.files.get(request.file_id)
    return answer_json(put_file(container, kept.object["filename"], kept.content, "user").object)


def put_file(container: Container, filename: str, content: Content, source: str) -> Kept:
    file: Object = {
        "id": make_id("cfile_"),
        "object": "container.file",
        "bytes": content.size,
        "container_id": container.object["id"],
        "created_at": now(),
        "path": f"/mnt/data/{filename}",
        "source": source,
    }
    return container.files.add(Kept(file, content))


def list_files(call: Call) -> Answer:
    return answer_json(call.store.containers.get(call.id).files.page(call.query))


def get_file(call: Call) -> Answer:
    return answer_json(_file(call).object)


def file_content(call: Call) -> Answer:
    kept = _file(call)
    return file_answer(kept, str(kept.object["path"]).rpartition("/")[2])


def delete_file(call: Call) -> Answer:
    call.store.containers.get(call.id).files.remove(call.ids[1])
    return answer_json({"id": call.ids[1], "object": "container.file.deleted", "deleted": True})


def _file(call: Call) -> Kept:
    return call.store.containers.get(call.id).files.get(call.ids[1])


ROUTES = (
    Route("POST", "containers", create),
    Route("GET", "containers", list_all),
    Route("GET", "containers/{id}", get),
    Route("DELETE", "containers/{id}", delete),
    Route("POST", "containers/{id}/files", add_file),
    Route("GET", "containers/{id}/files", list_files),
    Route("GET", "containers/{id}/files/{id}", get_file),
    Route("GET", "containers/{id}/files/{id}/content", file_content),
    Route("DELETE", "containers/{id}/files/{id}", delete_file),
)
