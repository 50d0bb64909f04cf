"""The code interpreter as a hosted tool: the tables that a run or a response may read, and the files that it makes."""

from collections.abc import Iterable, Mapping

from simulator.api.containers import new_container, put_file
from simulator.api.files import keep
from simulator.collection import Kept, Object, make_id
from simulator.content import Content
from simulator.interpreter.analysis import Finding, MadeFile
from simulator.interpreter.tables import MOST_BYTES, Table, read_table
from simulator.store import Container, Store, Thread

TOOL = "code_interpreter"


def tables_in(files: Iterable[Kept]) -> list[Table]:
    """The tables in files of CSV."""
    tables = []
    for kept in files:
        name = str(kept.object.get("filename") or kept.object["path"]).rpartition("/")[2]
        table = read_table(name, kept.content.read(MOST_BYTES + 1)) if name.endswith((".csv", ".tsv")) else None
        if table is not None:
            tables.append(table)
    return tables


# --- Assistants -------------------------------------------------------------------------------------------------------


def files_of_run(run: Object, thread: Thread, store: Store) -> list[Kept]:
    """The files that the code of a run may read: of its assistant, its thread and its messages, the latest last."""
    holders = [thread.object]
    if run["assistant_id"] in store.assistants:
        holders.insert(0, store.assistants.get(run["assistant_id"]).object)
    ids: list[str] = []
    for holder in holders:
        ids += holder.get("file_ids") or ()
        ids += (holder.get("tool_resources") or {}).get(TOOL, {}).get("file_ids") or ()
    for message in thread.messages:
        ids += message.object.get("file_ids") or ()
        ids += (str(attached.get("file_id")) for attached in message.object.get("attachments") or ())
    return [store.files.get(file_id) for file_id in dict.fromkeys(ids) if file_id in store.files]


def keep_output(store: Store, made: MadeFile) -> str:
    """The id of a file that the code of a run has made."""
    return str(keep(store.files, f"/mnt/data/{made.name}", "assistants_output", Content(made.data)).object["id"])


def step_call(finding: Finding, kept: Mapping[str, str]) -> Object:
    """The call of the tool in a run's step. `kept`: name -> id of the files that it has made."""
    logs = [{"type": "logs", "logs": finding.logs}] if finding.logs else []
    images = [{"type": "image", "image": {"file_id": kept[made.name]}} for made in finding.files if made.is_image]
    return {"id": make_id("call_"), "type": TOOL, TOOL: {"input": finding.code, "outputs": [*logs, *images]}}


def content_of(finding: Finding, kept: Mapping[str, str]) -> list[Object]:
    """The parts of the message: the pictures, then the text with a link to each other file."""
    pictures: list[Object] = [
        {"type": "image_file", "image_file": {"file_id": kept[made.name]}} for made in finding.files if made.is_image
    ]
    text, annotations = finding.text, list[Object]()
    for made in finding.files:
        if not made.is_image:
            link = f"sandbox:/mnt/data/{made.name}"
            start, path = len(text) + 1, {"file_id": kept[made.name]}
            text += f" {link}"
            place = {"start_index": start, "end_index": len(text)}
            annotations.append({"type": "file_path", "text": link, **place, "file_path": path})
    return [*pictures, {"type": "text", "text": {"value": text, "annotations": annotations}}]


# --- Responses --------------------------------------------------------------------------------------------------------


def container_of(tools: Iterable[Object], before: Iterable[Object], store: Store) -> Container | None:
    """The container of a response's code: the one that it names; for `auto` the one of the context that is still there,
    else a new one, with the tool's files. None without the tool."""
    tool = next((tool for tool in tools if tool.get("type") == TOOL), None)
    if tool is None:
        return None
    if isinstance(choice := tool.get("container"), str):
        return store.containers.get(choice)
    used = [name for item in before if (name := str(item.get("container_id"))) in store.containers]
    container = store.containers.get(used[-1]) if used else store.containers.add(new_container("auto"))
    present = {str(kept.object["path"]) for kept in container.files}
    for file_id in (choice or {}).get("file_ids") or ():
        kept = store.files.get(str(file_id))
        if f"/mnt/data/{kept.object['filename']}" not in present:
            put_file(container, kept.object["filename"], kept.content, "user")
    return container


def call_item(finding: Finding, container: Container, include: Iterable[str]) -> Object:
    """The item of a piece of code. Its outputs are shown on request."""
    logs = [{"type": "logs", "logs": finding.logs}] if finding.logs else []
    return {
        "id": make_id("ci_"),
        "type": "code_interpreter_call",
        "status": "completed",
        "code": finding.code,
        "container_id": container.object["id"],
        "outputs": logs if "code_interpreter_call.outputs" in include else None,
    }


def cited(finding: Finding, container: Container) -> tuple[str, list[Object]]:
    """The text of the answer, and an annotation for each file that the code has made."""
    text, annotations = finding.text, list[Object]()
    for made in finding.files:
        kept = put_file(container, made.name, Content(made.data), "assistant")
        link = f"sandbox:/mnt/data/{made.name}"
        start = len(text) + 1
        text += f" {link}"
        annotations.append(
            {
                "type": "container_file_citation",
                "container_id": container.object["id"],
                "file_id": kept.object["id"],
                "filename": made.name,
                "start_index": start,
                "end_index": start + len(link),
            }
        )
    return text, annotations
