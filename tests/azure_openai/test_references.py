"""The objects that a body names are found wherever the API takes them, and nowhere else."""

import json
from typing import Any

import pytest

from shared.azure_openai import references
from shared.azure_openai.outline import Outline, sealed_name
from shared.azure_openai.references import in_answer
from shared.errors import InvalidRequest
from shared.types import Reference
from tests.harness.reference_bodies import in_body


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        ("responses.create", {"previous_response_id": "resp_1"}, ["response:resp_1"]),
        ("responses.create", {"conversation": "conv_1"}, ["conversation:conv_1"]),
        ("responses.create", {"conversation": {"id": "conv_1"}}, ["conversation:conv_1"]),
        (
            "responses.create",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}, {"type": "input_text"}]}
                ]
            },
            ["file:file-1"],
        ),
        (
            "responses.create",
            {
                "tools": [
                    {"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]},
                    {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
                    {"type": "code_interpreter", "container": "cntr_1"},
                    {"type": "image_generation", "input_image_mask": {"file_id": "file-2"}},
                ]
            },
            ["vector_store:vs_1", "vector_store:vs_2", "file:file-1", "container:cntr_1", "file:file-2"],
        ),
        (
            "chat.completions",
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
            ["file:file-1"],
        ),
        ("batches.create", {"input_file_id": "file-1"}, ["file:file-1"]),
        (
            "fine_tuning.jobs.create",
            {"training_file": "file-1", "validation_file": "file-2"},
            ["file:file-1", "file:file-2"],
        ),
        ("vector_stores.create", {"file_ids": ["file-1", "file-1", ""]}, ["file:file-1"]),
        ("vector_stores.file_batches.create", {"files": [{"file_id": "file-1"}]}, ["file:file-1"]),
        (
            "assistants.create",
            {
                "tool_resources": {
                    "code_interpreter": {"file_ids": ["file-1"]},
                    "file_search": {"vector_store_ids": ["vs_1"], "vector_stores": [{"file_ids": ["file-2"]}]},
                }
            },
            ["file:file-1", "vector_store:vs_1", "file:file-2"],
        ),
        (
            "threads.create_and_run",
            {
                "assistant_id": "asst_1",
                "thread": {
                    "messages": [
                        {
                            "content": [{"type": "image_file", "image_file": {"file_id": "file-1"}}],
                            "attachments": [{"file_id": "file-2", "tools": []}],
                        }
                    ]
                },
            },
            ["assistant:asst_1", "file:file-1", "file:file-2"],
        ),
        ("evals.runs.create", {"data_source": {"source": {"type": "file_id", "id": "file-1"}}}, ["file:file-1"]),
    ],
)
def test_every_field_that_names_an_object_is_found(operation: str, body: dict[str, Any], expected: list[str]) -> None:
    objects = in_body(json.dumps(body).encode(), operation)
    assert [f"{reference.kind}:{reference.id}" for reference in objects] == expected


@pytest.mark.parametrize(
    "key", [r"previous\u005fresponse\u005fid", "Previous_Response_ID", "previous_respon\\u0073e_id"]
)
def test_a_field_cannot_hide_behind_escapes_or_capitals(key: str) -> None:
    hidden = f'{{"{key}": "resp_1"}}'
    assert in_body(hidden.encode(), "responses.create") == (Reference("response", "resp_1"),)


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"content": [{"file": {"file_id": "file-1", "file_id": "file-2"}}]}]}',
        b'{"messages": [{"content": [{"file": {"file_id": "file-1", "FILE_ID": "file-2"}}]}]}',
        b'{"messages": [{"content": [{"file": {"file_id": "file-1"}}]}], "messages": []}',
        b'{"messages": [{"audio": {"id": "audio_1"}, "name": "a", "name": null}]}',
    ],
)
def test_a_key_that_stands_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        in_body(body, "chat.completions")


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"file_id": "mine", "conversation": "a talk"}},
        {"messages": [{"role": "user", "content": "the file_id is file-1", "tool_calls": [{"id": "call_1"}]}]},
        {"tools": [{"function": {"parameters": {"properties": {"file_id": {"type": "string", "const": "x"}}}}}]},
        {"text": {"format": {"schema": {"file_id": "x"}}}},
        {"file_id": None, "previous_response_id": 7},
        {"client_metadata": {"thread_id": "t", "session_id": "s", "file_id": "f", "conversation": "c", "id": "i"}},
        {"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": {"file_id": "file-1"}}]},
        {"input": [{"role": "user", "content": [{"text": "", "annotations": [{"file_id": "cfile_1"}]}]}]},
        {"prompt": {"id": "pmpt_1", "variables": {"file_id": "file-1", "conversation": "conv_1"}}},
        {"text": {"format": {"schema": {"properties": {"file_id": {"id": "x"}}}}}, "assistant_id": "asst_1"},
    ],
)
def test_free_form_fields_name_no_objects(body: dict[str, Any]) -> None:
    for operation in ("chat.completions", "responses.create"):
        assert in_body(json.dumps(body).encode(), operation) == ()


def test_the_variables_of_a_prompt_may_be_files() -> None:
    variables = {
        "metadata": {"type": "input_file", "file_id": "file-1"},
        "a": {"type": "input_image", "file_id": "f-2"},
    }
    objects = in_body(json.dumps({"prompt": {"id": "pmpt_1", "variables": variables}}).encode(), "responses.create")
    assert [reference.id for reference in objects] == ["file-1", "f-2"]


def test_a_spoken_answer_is_named_by_its_id() -> None:
    body = {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}
    assert in_body(json.dumps(body).encode(), "chat.completions") == (Reference("audio", "audio_1"),)


def test_an_answer_names_the_objects_that_it_created_as_well() -> None:
    batch = {"id": "batch_1", "input_file_id": "file-in", "output_file_id": "file-out", "error_file_id": None}
    assert in_answer(json.dumps(batch).encode(), "batches.get") == (Reference("file", "file-out"),)
    output = {"output": [{"type": "code_interpreter_call", "container_id": "cntr_123"}]}
    assert in_answer(json.dumps(output).encode(), "responses.create") == (Reference("container", "cntr_123"),)
    spoken = {"choices": [{"message": {"audio": {"id": "audio_123"}}}]}
    assert in_answer(json.dumps(spoken).encode(), "chat.completions") == (Reference("audio", "audio_123"),)
    assert in_answer(b'not json with "output_file_id"', "batches.get") == ()


@pytest.mark.parametrize(
    "output",
    [
        {"type": "mcp_list_tools", "tools": [{"annotations": {"file_id": "file-1"}, "input_schema": {"file_id": "f"}}]},
        {"type": "mcp_call", "output": {"container_id": "cntr_1"}, "arguments": {"container_id": "cntr_1"}},
        {"type": "file_search_call", "results": [{"file_id": "file-12345", "attributes": {"container_id": "cntr_1"}}]},
    ],
)
def test_what_a_tool_server_says_makes_nobody_an_owner(output: dict[str, Any]) -> None:
    for operation in ("responses.create", "responses.get", "conversations.items.list"):
        body = json.dumps({"output": [output], "data": [output], "metadata": {"container_id": "cntr_1"}})
        assert in_answer(body.encode(), operation) == ()


@pytest.mark.parametrize(
    ("item", "kinds"),
    [
        ({"type": "item_reference", "id": "msg_1"}, ("item",)),
        ({"id": "msg_1"}, ("item",)),
        ({"id": "msg_1", "type": None, "status": "completed"}, ("item",)),
        ({"id": "msg_1", "type": ["message"], "content": "a"}, ("item",)),
        ({"type": "image_generation_call", "id": "msg_1", "status": "completed", "result": None}, ("item",)),
        ({"type": "image_generation_call", "id": "msg_1", "result": "aWdu"}, ()),
        ({"type": "file_search_call", "id": "msg_1", "queries": ["a"], "results": None}, ("item",)),
        ({"type": "mcp_approval_response", "approval_request_id": "msg_1", "approve": True}, ("item",)),
        ({"id": "msg_1", "role": "user", "content": "a"}, ()),
        ({"type": "reasoning", "id": "msg_1", "summary": []}, ("item",)),
        ({"type": "reasoning", "id": "msg_1", "encrypted_content": None}, ("item",)),
        ({"type": "message", "id": "msg_1", "role": "assistant", "content": "a"}, ()),  # it says all that it is
        ({"type": "function_call", "id": "msg_1", "name": "f", "arguments": "{}", "call_id": "c"}, ()),
        ({"type": "item_reference", "id": 7}, ()),
    ],
)
def test_items_without_content_are_references(item: object, kinds: tuple[str, ...]) -> None:
    for body, operation in (({"input": [item]}, "responses.create"), ({"items": [item]}, "conversations.items.create")):
        objects = in_body(json.dumps(body).encode(), operation)
        assert objects == tuple(Reference(kind, "msg_1") for kind in kinds)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("fine_tuning.graders.run", {"item": {"items": [{"id": "sku-1"}]}}),
        ("evals.runs.create", {"data_source": {"source": {"content": [{"item": {"input": [{"id": "q1"}]}}]}}}),
        ("evals.runs.create", {"data_source": {"source": {"content": [{"item": {"type": "reasoning", "id": "q1"}}]}}}),
        ("batches.create", {"items": [{"type": "item_reference", "id": "q1"}]}),
    ],
)
def test_rows_of_a_caller_are_not_items(operation: str, body: object) -> None:
    assert in_body(json.dumps(body).encode(), operation) == ()


def test_an_item_without_an_id_is_skipped() -> None:
    output = [{"id": None}, {"type": "message", "id": "msg_12345"}, {"id": 7}, {}]
    assert references.items(json.dumps(output).encode()) == ["msg_12345"]


def test_the_items_of_an_answer_are_read_apart_from_its_objects() -> None:
    output = [{"type": "reasoning", "id": "rs_12345"}, {"type": "message", "id": "msg_12345"}, {"id": "x/y"}]
    assert references.items(json.dumps(output).encode()) == ["rs_12345", "msg_12345"]
    assert in_answer(json.dumps({"output": output}).encode(), "responses.create") == ()
    assert references.items(b'{"a": 1}') == []


SEALING = [
    {"type": "reasoning", "encrypted_content": "gAAAAA/b=="},
    {"type": "reasoning", "id": "rs_12345", "summary": [], "encrypted_content": "gAAAAA/b=="},
    {"type": "compaction", "id": "cmp_12345", "encrypted_content": "gAAAAA/b=="},
    {"type": "agent_message", "content": [{"type": "encrypted_content", "encrypted_content": "gAAAAA/b=="}]},
]
SEALED = Reference("sealed", sealed_name("gAAAAA/b=="))


def outlined(body: bytes, size: int) -> Outline:
    outline = Outline()
    for start in range(0, len(body), size):
        outline.feed(body[start : start + size])
    return outline


@pytest.mark.parametrize("item", SEALING)
def test_sealed_content_is_known_by_its_digest_with_or_without_an_id(item: dict[str, Any]) -> None:
    body = json.dumps({"model": "o4-mini", "input": [{"role": "user", "content": "a"}, item]}).encode()
    for written in (body, body.replace(b"/", rb"\/")):  # as PHP writes it
        assert in_body(written, "responses.create") == (SEALED,)
        for size in (1, 7, 4096):  # a large body, whose long texts are left out
            objects, brought = references.in_request(b"", "responses.create", outlined(written, size))
            assert objects == (SEALED,)
            assert brought == references.in_request(written, "responses.create")[1]
            assert item.get("id", SEALED.id) in brought


def test_a_long_sealed_content_has_the_same_name_in_an_outline() -> None:
    content = "gAAAAA/" * 50_000
    body = json.dumps({"input": [{"type": "reasoning", "encrypted_content": content}]}).encode()
    for objects in (
        in_body(body, "responses.create"),
        references.in_request(b"", "responses.create", outlined(body, 65_536))[0],
    ):
        assert objects == (Reference("sealed", sealed_name(content)),)


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_item_with_empty_sealed_content_is_nothing_but_its_id(empty: object) -> None:
    body = json.dumps({"input": [{"type": "reasoning", "id": "rs_12345", "encrypted_content": empty}]}).encode()
    for objects in (
        in_body(body, "responses.create"),
        references.in_request(b"", "responses.create", outlined(body, 9))[0],
    ):
        assert objects == (Reference("item", "rs_12345"),)


def test_the_last_sealed_contents_of_a_history_count() -> None:
    items = [{"type": "reasoning", "id": f"rs_{n:05}", "encrypted_content": f"sealed {n}"} for n in range(1001)]
    body = json.dumps({"input": items}).encode()
    expected = tuple(Reference("sealed", sealed_name(f"sealed {n}")) for n in range(985, 1001))
    objects, brought = references.in_request(body, "responses.create")
    assert objects == expected
    assert references.in_request(b"", "responses.create", outlined(body, 999)) == (expected, brought)
    assert sealed_name("sealed 0") in brought  # what an answer repeats of it makes nobody its owner


@pytest.mark.parametrize("item", SEALING)
def test_the_sealed_content_of_an_answer_and_of_its_events_is_read(item: dict[str, Any]) -> None:
    response = {"id": "resp_1", "output": [item]}
    for answer, operation in (
        (response, "responses.create"),
        (response, "responses.compact"),
        ({"type": "response.completed", "response": response}, "responses.create"),
        ({"type": "response.output_item.done", "item": item}, "responses.create"),
    ):
        assert in_answer(json.dumps(answer).encode(), operation) == (SEALED,)


def test_a_large_event_is_read_without_its_long_texts_and_not_at_all_if_it_has_few() -> None:
    event = {"type": "response.completed", "response": {"output": [SEALING[0]], "instructions": "x" * 4_000_000}}
    assert in_answer(json.dumps(event).encode(), "responses.create") == (SEALED,)
    event["response"] = {"output": [SEALING[0]], "tools": [{"parameters": {"a": [{}] * 1_000_000}}]}
    assert in_answer(json.dumps(event).encode(), "responses.create") == ()


def test_sealed_content_that_a_tool_server_or_a_caller_has_said_is_not_the_backends() -> None:
    tool = {"type": "mcp_list_tools", "tools": [{"input_schema": SEALING[0]}]}
    assert in_answer(json.dumps({"output": [tool], "metadata": SEALING[0]}).encode(), "responses.create") == ()
    assert in_answer(json.dumps({"data": [SEALING[0]]}).encode(), "conversations.items.list") == ()
