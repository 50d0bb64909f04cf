"""The table of references is whole: the types of the official client have no other place that names an object."""

import json
import re
from typing import Any

import pytest
from openai.types.beta.beta_response_input_item_param import BetaResponseInputItemParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam

from shared.anthropic.operations import OPERATIONS as MESSAGES
from shared.azure_openai.operations import OPERATIONS
from shared.azure_openai.outline import sealed_name
from shared.azure_openai.reference_paths import ANSWERS, CONTENT, REQUESTS
from shared.azure_openai.references import KINDS
from shared.types import Operation, Reference
from tests.harness import client_types
from tests.harness.reference_bodies import in_body, places, planted

FOREIGN = "foreign_12345"
POSTS = [operation for operation in OPERATIONS if operation.method == "POST"]

# Keys that could name an object. The model is checked elsewhere.
ID_LIKE = re.compile(
    r"(^|_)(ids?|files?|containers?|conversation|threads?|assistant|references?|mask|checkpoint|stores?|voices?|skills?"
    r"|uploads?|evals?|runs?|responses?|items?|batch|job)$"
)

# Places with such a key that name no object of a caller's, by the ends of their paths.
NO_REFERENCES = {
    "call_id": "joins a call and its output within one input",
    "tool_call_id": "joins a call and its output within one list of messages",
    "tool_calls.id": "joins a call and its output within one list of messages",
    "caller_id": "joins a call and its program within one input",
    "acknowledged_safety_checks.id": "repeats a check of a call in the same input",
    "pending_safety_checks.id": "repeats a check of a call in the same input",
    "prompt.id": "a template that the resource's operator made: no operation of the gateway makes one",
    "skill_id": "a skill that the resource's operator made: no operation of the gateway makes one",
    "tunnel_id": "a tunnel that the resource's operator made: no operation of the gateway makes one",
    "voice": "a built-in voice",
    "voice.id": "a voice that the resource's operator made: no operation of the gateway makes one",
    "known_speaker_references": "sounds as data URLs",
    "tracing.group_id": "a word of the caller's, for its own traces",
    "part_ids": "parts of the upload in the path",
    "project_ids": "projects of the operator's organization",
    "grader.reference": "a text to compare with",
    "graders.reference": "a text to compare with",
    "testing_criteria.reference": "a text to compare with",
    "item_reference": "the name of a column of the eval's data",
    "fine_tuning.graders.run:item": "a row of data",
    "source.content.item.*": "a row of data",
}

# Operations that the client lacks: what their bodies may say, as Azure's reference has it.
NOT_IN_THE_CLIENT = {
    "files.import": "the address of a blob",
    "fine_tuning.jobs.checkpoints.copy": "the resource to copy to",
    "evals.runs.update": "nothing: older clients cancel with it",
    "realtimeapi.sessions": "what realtime.sessions says",
    "realtimeapi.transcription_sessions": "what realtime.transcription_sessions says",
}


def names_foreign(reference: Reference) -> bool:
    return reference.id == (sealed_name(FOREIGN) if reference.kind == "sealed" else FOREIGN)


def excused(operation: Operation, path: tuple[str, ...]) -> bool:
    text = ".".join(path)
    return (
        f"{operation.name}:{text}" in NO_REFERENCES
        or any(f".{text}".endswith(f".{end}") for end in NO_REFERENCES)
        # The client's types repeat what is in the path of the operation.
        or (len(path) == 1 and f"{{{path[0].removesuffix('_id')}}}" in operation.path)
    )


@pytest.mark.parametrize("operation", POSTS, ids=lambda operation: operation.name)
def test_every_id_of_the_clients_types_is_seen_or_excused(operation: Operation) -> None:
    bodies = client_types.parameters_of(operation)
    unseen = set()
    for body in bodies:
        for path, holder in client_types.strings(body):
            key = next(key for key in reversed(path) if key != "*")
            if path[0] in ("file", "mask", "image") and operation.body == "multipart":
                continue  # the bytes themselves
            if operation.name == "realtime.calls.create" and path[0] == "session":
                path = path[1:]  # the session is read alone
            if (not ID_LIKE.search(key) and key != "encrypted_content") or excused(operation, path):
                continue
            of_types = [{"type": one} for one in holder] or [{}]
            for beside in of_types:
                body_bytes = json.dumps(planted(path, FOREIGN, beside)).encode()
                if not any(map(names_foreign, in_body(body_bytes, operation.name))):
                    unseen.add((".".join(path), beside.get("type")))
    assert unseen == set()


def test_the_client_has_the_operations_that_it_is_asked_about() -> None:
    lacking = {operation.name for operation in POSTS if not client_types.parameters_of(operation)}
    bodiless = {name for name in lacking if re.search(r"\.(cancel|pause|resume|hangup)$", name)}
    assert lacking - bodiless == NOT_IN_THE_CLIENT.keys()


def test_the_excuses_are_used() -> None:
    paths = {
        f"{operation.name}:{'.'.join(path)}"
        for operation in POSTS
        for body in client_types.parameters_of(operation)
        for path, _ in client_types.strings(body)
    }
    for end in NO_REFERENCES:
        assert any(f".{path.replace(':', '.')}".endswith(f".{end}") or path == end for path in paths), end


def test_the_table_has_operations_and_kinds_that_there_are() -> None:
    names = {operation.name for operation in (*OPERATIONS, *MESSAGES)} | {"realtime"}  # the last of a WebSocket
    assert REQUESTS.keys() <= names
    assert ANSWERS.keys() <= names
    for shape in (*REQUESTS.values(), *ANSWERS.values()):
        assert {kind for _, kind in places(shape)} <= KINDS.keys()


@pytest.mark.parametrize("operation", REQUESTS)
def test_every_path_of_the_table_is_seen_as_it_stands_and_in_lists(operation: str) -> None:
    for path, kind in places(REQUESTS[operation]):
        for in_lists in (False, True):
            body = json.dumps(planted(path, FOREIGN, in_lists=in_lists))
            for written in (body, body.replace(f'"{path[-1]}"', f'"{path[-1].upper()}"')):
                objects = in_body(written.encode(), operation)
                assert any(one.kind == kind and names_foreign(one) for one in objects), (path, written)


ITEM_TYPES = {
    name: one
    for union in (ResponseInputItemParam, BetaResponseInputItemParam)
    for one in client_types.members(union)
    for name in client_types.literal(one)
    if "id" in one.__annotations__
}


def test_every_type_of_item_is_in_the_table() -> None:
    assert ITEM_TYPES.keys() - {"item_reference", "compaction_trigger"} == CONTENT.keys()
    for name, keys in CONTENT.items():
        assert set(keys) <= ITEM_TYPES[name].__annotations__.keys(), name


@pytest.mark.parametrize("name", [*ITEM_TYPES, "a type of tomorrow"])
@pytest.mark.parametrize("operation", ["responses.create", "conversations.items.create"])
def test_an_item_with_nothing_but_its_id_is_a_reference(name: str, operation: str) -> None:
    key = "input" if operation == "responses.create" else "items"
    item: dict[str, Any] = {"type": name, "id": FOREIGN, "status": "completed"}
    empty: list[Any] = [None, "", [], {}]
    for bare in (item, *({**item, **dict.fromkeys(CONTENT.get(name, ()), nothing)} for nothing in empty)):
        assert Reference("item", FOREIGN) in in_body(json.dumps({key: [bare]}).encode(), operation)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in CONTENT.items() for key in keys])
def test_an_item_with_its_content_needs_no_owner(name: str, key: str) -> None:
    item: dict[str, Any] = {"type": name, "id": FOREIGN, key: "some"}
    assert FOREIGN not in {one.id for one in in_body(json.dumps({"input": [item]}).encode(), "responses.create")}


REPEATED = {  # answers that repeat what a caller has put into an object, and the operations that put it there
    "conversations.items.list": "conversations.items.create",
    "conversations.items.get": "conversations.items.create",
    "conversations.items.create": "conversations.items.create",
    "responses.compact": "responses.compact",
    "threads.messages.list": "threads.messages.create",
    "threads.messages.get": "threads.messages.create",
    "threads.messages.create": "threads.messages.create",
    "threads.get": "threads.create",
    "threads.create": "threads.create",
    "threads.update": "threads.update",
    "assistants.get": "assistants.create",
    "assistants.create": "assistants.create",
    "assistants.update": "assistants.update",
}
WRAPPED = {"data", "items", "input", "output"}


@pytest.mark.parametrize("answer", REPEATED)
def test_what_an_answer_repeats_is_checked_when_it_is_sent(answer: str) -> None:
    def bare(path: tuple[str, ...]) -> tuple[str, ...]:
        return path[1:] if path[0] in WRAPPED else path

    checked = {(bare(path), kind) for path, kind in places(REQUESTS[REPEATED[answer]])}
    assert {(bare(path), kind) for path, kind in places(ANSWERS[answer])} <= checked
