"""The wire: paths, bodies, kinds of error. Pure, so nothing runs here but the code."""

import ast
import json
import re
import time
from pathlib import Path
from typing import Any

import openai.resources
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.azure_openai import answers, backend_requests, operations
from shared.azure_openai.answers import classify, missing_action, wait
from shared.azure_openai.backend_requests import upstream_request
from shared.azure_openai.json_body import rewrite, top_level
from shared.azure_openai.multipart import FormModel
from shared.azure_openai.operations import OPERATIONS, match
from shared.azure_openai.requests import parse_call, parse_upload
from shared.config.document import Backend
from shared.errors import InvalidRequest, MethodNotAllowed, UnknownPath
from shared.types import Call, Operation, Reference, Target

BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def call(path: str, body: bytes = BODY, query: str = "", **headers: str) -> Call:
    return parse_call(match("POST", path), query, headers, body)


def target(deployment: str = "prod", **more: Any) -> Target:
    given: dict[str, Any] = {"models": {"gpt-4o": deployment}, **more}
    backend = Backend(name="sweden", endpoint="https://swc.openai.azure.com/", region="swedencentral", **given)
    return Target(backend, "gpt-4o", deployment)


@pytest.mark.parametrize(
    ("path", "query", "version", "url"),
    [
        ("/v1/chat/completions", "", "v1", "/openai/v1/chat/completions"),
        ("/openai/v1/chat/completions", "", "2024-10-21", "/openai/v1/chat/completions"),
        ("/openai/v1/chat/completions", "api-version=preview", "v1", "/openai/v1/chat/completions?api-version=preview"),
        (
            "/openai/deployments/gpt-4o/chat/completions",
            "api-version=2025-01-01-preview",
            "v1",
            "/openai/deployments/prod/chat/completions?api-version=2025-01-01-preview",
        ),
        (
            "/v1/chat/completions",
            "x=1",
            "2024-10-21",
            "/openai/deployments/prod/chat/completions?api-version=2024-10-21&x=1",
        ),
        ("/gateway/chat/completions/gpt-4o", "systemId=erp", "v1", "/openai/v1/chat/completions"),
    ],
)
def test_every_api_style_reaches_the_deployment(path: str, query: str, version: str, url: str) -> None:
    request = upstream_request(call(path, query=query), target(api_version=version))
    assert request.url == "https://swc.openai.azure.com" + url
    expected = BODY.replace(b"gpt-4o", b"prod") if "/openai/v1/" in url else BODY
    assert request.body == expected


NESTED = (
    b'{"session": {"type": "realtime", "model": "gpt-4o", "audio": {"input": {}}}, "expires_after": {"seconds": 9}}'
)


def test_a_model_inside_of_a_session_is_translated_where_it_stands() -> None:
    secret = call("/v1/realtime/client_secrets", NESTED)
    assert secret.model == "gpt-4o"
    assert upstream_request(secret, target()).body == NESTED.replace(b"gpt-4o", b"prod")
    deep = b'{"session":{"audio":{"input":{"transcription":{"model":"gpt-4o","language":"en"}}}}}'
    assert upstream_request(call("/v1/realtime/client_secrets", deep), target()).body == deep.replace(
        b"gpt-4o", b"prod"
    )
    with pytest.raises(InvalidRequest, match="model"):
        call("/v1/realtime/client_secrets", b'{"session": {}}')


OFFER = b"v=0\r\ns=-\r\n"
SESSION = b'{"type": "realtime", "instructions": "' + b"Be brief. " * 1000 + b'", "model": "gpt-4o"}'
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="sdp"\r\n\r\n%s\r\n'
    b'--x\r\nContent-Disposition: form-data; name="session"\r\nContent-Type: application/json\r\n\r\n%s\r\n--x--\r\n'
)
AS_FORM, AS_OFFER = "multipart/form-data; boundary=x", "application/sdp"


def offer(body: bytes, kind: str, query: str = "") -> Call:
    return parse_call(match("POST", "/v1/realtime/calls"), query, {"content-type": kind}, body)


def test_an_offer_of_webrtc_goes_to_the_model_of_its_session_and_keeps_every_other_byte() -> None:
    made = offer(FORM % (OFFER, SESSION), AS_FORM, "webrtcfilter=on")
    assert (made.model, made.makes) == ("gpt-4o", "realtime_call")
    request = upstream_request(made, target())
    assert request.url.endswith("/openai/v1/realtime/calls?webrtcfilter=on")
    assert request.body == FORM % (OFFER, SESSION.replace(b"gpt-4o", b"prod"))


def test_an_offer_alone_goes_to_the_model_of_the_query() -> None:
    made = offer(OFFER, AS_OFFER, "model=gpt-4o&webrtcfilter=on")
    request = upstream_request(made, target("prod/1"))
    assert (made.model, request.body) == ("gpt-4o", OFFER)
    assert request.url.endswith("/openai/v1/realtime/calls?model=prod%2F1&webrtcfilter=on")


@pytest.mark.parametrize(
    ("body", "kind", "query"),
    [
        (OFFER, AS_OFFER, ""),
        (OFFER, AS_OFFER, "model="),
        (b"", AS_OFFER, ""),
        (OFFER, "application/json", "model=gpt-4o"),
        (OFFER, "", "model=gpt-4o"),
        (OFFER, "multipart/form-data", "model=gpt-4o"),
        (FORM % (OFFER, b"nonsense"), AS_FORM, ""),
        (FORM % (OFFER, b'{"model": 7}'), AS_FORM, ""),
        (FORM % (OFFER, b'{"model": "a", "model": "b"}'), AS_FORM, ""),
        (FORM % (OFFER, SESSION), AS_FORM, "model=other"),
        (FORM % (OFFER, b'{"x": "' + b"x" * 300_000 + b'"}'), AS_FORM, ""),
        (FORM % (OFFER, b'\r\n\t {"model": "other"}'), AS_FORM, "model=gpt-4o"),
    ],
)
def test_an_offer_that_names_no_model_or_two_is_refused(body: bytes, kind: str, query: str) -> None:
    with pytest.raises(InvalidRequest):
        offer(body, kind, query)


@pytest.mark.parametrize(
    "session",
    [b"hello", b"", b" ", b"[" * 100_000, b'{"a":' * 100_000, b'["model"]', b"7", b"{"],
)
def test_a_session_that_is_no_object_is_refused_whatever_the_query_names(session: bytes) -> None:
    with pytest.raises(InvalidRequest):
        offer(FORM % (OFFER, session), AS_FORM, "model=gpt-4o")


def test_the_model_of_a_session_is_found_behind_blanks_and_translated_where_it_stands() -> None:
    made = offer(FORM % (OFFER, b"\n \t" + SESSION + b"\n"), AS_FORM)
    assert made.model == "gpt-4o"
    assert upstream_request(made, target()).body == FORM % (
        OFFER,
        b"\n \t" + SESSION.replace(b"gpt-4o", b"prod") + b"\n",
    )


def test_a_session_may_name_another_model_that_transcribes() -> None:
    session = b'{"type":"realtime","audio":{"input":{"transcription":{"model":"whisper-1"}}}}'
    made = offer(FORM % (OFFER, session), AS_FORM, "model=gpt-4o")
    request = upstream_request(made, target())
    assert (made.model, request.body) == ("gpt-4o", FORM % (OFFER, session))
    assert request.url.endswith("/openai/v1/realtime/calls?model=prod")
    assert offer(FORM % (OFFER, session), AS_FORM).model == "whisper-1"


@pytest.mark.parametrize(("old", "new", "reserved"), [(10, 900, 900), (900, 10, 900), (7, None, 7), (None, None, None)])
def test_of_two_bounds_of_the_answer_the_larger_is_reserved(
    old: int | None, new: int | None, reserved: int | None
) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [], "max_tokens": old, "max_completion_tokens": new}
    assert call("/v1/chat/completions", json.dumps(body).encode()).max_output_tokens == reserved


def test_a_field_with_the_wrong_type_is_named_in_the_error() -> None:
    with pytest.raises(InvalidRequest, match="session"):
        call("/v1/realtime/client_secrets", b'{"session": "gpt-4o"}')


@pytest.mark.parametrize("value", [b"9" * 5000, b"[" * 100_000 + b"]" * 100_000])
def test_a_body_that_cannot_be_searched_for_objects_is_rejected(value: bytes) -> None:
    with pytest.raises(InvalidRequest):
        call("/v1/responses", b'{"model": "gpt-4o", "previous_response_id": "resp_1", "x": %s}' % value)


@pytest.mark.parametrize(
    ("path", "given", "location"),
    [
        ("/v1/realtime/calls", "/openai/v1/realtime/calls/rtc_1", "/v1/realtime/calls/rtc_1"),
        ("/openai/v1/realtime/calls", "https://swc.openai.azure.com/v1/x/rtc_1?a=b", "/openai/v1/realtime/calls/rtc_1"),
        ("/openai/realtime/calls", "rtc_1/", "/openai/realtime/calls/rtc_1"),
        ("/v1/realtime/calls", "https://swc.openai.azure.com/..", None),
        ("/v1/realtime/calls", "", None),
    ],
)
def test_a_created_object_has_an_address_of_the_gateway(path: str, given: str, location: str | None) -> None:
    made = parse_call(match("POST", path), "api-version=1&model=m", {"content-type": AS_OFFER}, OFFER)
    assert answers.returned_location(made, given).get("location") == location


def test_an_assistant_is_made_with_the_deployment_on_dated_paths_too() -> None:
    made = call("/openai/assistants", b'{"model":"gpt-4o"}', "api-version=2024-05-01-preview")
    request = upstream_request(made, target())
    assert request.url.endswith("/openai/assistants?api-version=2024-05-01-preview")
    assert request.body == b'{"model":"prod"}'
    assert made.makes == "assistant"


def test_a_run_without_a_model_keeps_its_body() -> None:
    run = call("/v1/threads/thread_1/runs", b'{"assistant_id": "asst_1"}')
    assert (run.model, upstream_request(run, target("")).body) == ("", run.body)
    assert run.references == (Reference("thread", "thread_1"), Reference("assistant", "asst_1"))
    named = call("/v1/threads/thread_1/runs", b'{"assistant_id": "asst_1", "model": "gpt-4o"}')
    assert json.loads(upstream_request(named, target()).body)["model"] == "prod"


def test_the_model_to_be_trained_is_not_translated() -> None:
    job = call("/v1/fine_tuning/jobs", b'{"model": "gpt-4o", "training_file": "file-1"}')
    assert (job.model, upstream_request(job, target("")).body) == ("", job.body)


@pytest.mark.parametrize(
    ("path", "fields", "makes"),
    [
        ("/v1/chat/completions", {}, ""),
        ("/v1/chat/completions", {"store": True}, "chat_completion"),
        ("/v1/responses", {}, "response"),
        ("/v1/responses", {"store": None}, "response"),
        ("/v1/responses", {"store": False}, ""),
    ],
)
def test_a_call_leaves_an_object_only_if_it_is_stored(path: str, fields: dict[str, Any], makes: str) -> None:
    made = call(path, json.dumps({"model": "gpt-4o", **fields}).encode())
    assert made.makes == makes
    assert made.stateful == bool(makes)


def test_the_audience_of_the_token_follows_the_api() -> None:
    assert upstream_request(call("/v1/embeddings"), target()).scope == backend_requests.V1_SCOPE
    dated = call("/openai/deployments/gpt-4o/embeddings", query="api-version=2024-10-21")
    assert upstream_request(dated, target()).scope == backend_requests.CLASSIC_SCOPE
    assert upstream_request(dated, target(token_scope="api://x/.default")).scope == "api://x/.default"


def test_a_body_without_model_gets_the_one_of_the_path() -> None:
    request = upstream_request(call("/gateway/embeddings/gpt-4o", b'{"input": "Hi"}'), target())
    assert request.body == b'{"input": "Hi","model":"prod"}'


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v2/chat/completions", "/v1/chat", "/openai/chat/../files", "/v1/files/..", "/v1/files/.x"],
)
def test_a_path_that_is_not_in_the_table_is_unknown(path: str) -> None:
    with pytest.raises(UnknownPath):
        match("POST", path)


def path_of(operation: Operation, fill: str) -> str:
    return re.sub(r"\{\w+\}", fill, operation.path)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_found_in_every_style(operation: Operation) -> None:
    path = path_of(operation, "id_12345")
    dated = f"/openai/deployments/gpt-4o/{path}" if operation.on_deployment else f"/openai/{path}"
    paths = {"openai": f"/v1/{path}", "v1": f"/openai/v1/{path}", "dated": dated}
    for surface, spelled in paths.items():
        route = match(operation.method, spelled)
        assert (route.operation, route.surface, route.path) == (operation, surface, path)
        assert [reference.id for reference in route.references] == ["id_12345"] * len(route.references)
    if operation.on_deployment:
        route = match(operation.method, f"/gateway/{path}/gpt-4o")
        assert (route.operation, route.model, route.path) == (operation, "gpt-4o", path)


def paths_of_the_official_client() -> set[tuple[str, str]]:
    """Method and path, with `x` for ids, of everything that its resources call."""
    paths = set()
    for file in Path(openai.resources.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            method = {"_get": "GET", "_post": "POST", "_delete": "DELETE", "_get_api_list": "GET"}.get(node.func.attr)
            for word in node.keywords:
                if method and word.arg == "method" and isinstance(word.value, ast.Constant):
                    method = str(word.value.value).upper()
            path = node.args[0]
            if isinstance(path, ast.Call) and path.args:  # path_template("/files/{id}", id=id)
                path = path.args[0]
            if method and isinstance(path, ast.Constant):
                paths.add((method, re.sub(r"\{\w+\}", "x", str(path.value)).partition("?")[0]))
    return paths


def test_every_path_of_the_official_client_is_served_or_named_as_one_that_azure_does_not_have() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    absent = docs.split("These answer 404 `unknown_path`")[1].split("Paths of related APIs")[0]
    absent = absent.replace("`dashboard/webhook_endpoints/…`", "")  # Azure's alone
    named = [f"/{one.removesuffix('/…')}" for one in re.findall(r"`([a-z_/…]+)`", absent) if one != "unknown_path"]
    paths = paths_of_the_official_client()
    assert len(paths) > 350
    unserved = set()
    for method, path in paths - {("DELETE", "/models/x")}:
        try:
            match(method, f"/v1{path}")
        except UnknownPath:
            unserved.add(next((name for name in named if path == name or path.startswith(f"{name}/")), path))
    assert unserved == set(named)


def test_no_two_operations_are_one() -> None:
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


def test_a_path_names_the_objects_in_it() -> None:
    route = match("GET", "/v1/vector_stores/vs_1/files/file-1/content")
    assert route.references == (Reference("vector_store", "vs_1"), Reference("file", "file-1"))
    assert match("GET", "/v1/threads/thread_1/runs/run_1/steps/step_1").references == (Reference("thread", "thread_1"),)


def test_the_error_for_a_wrong_method_names_the_right_one() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        match("GET", "/v1/embeddings")
    assert caught.value.headers() == {"allow": "POST"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"nonsense", None),
        (b"[1]", None),
        (b'"text"', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"\xff": 1}', None),
        (b"{}", "model"),
        (b'{"model": 7}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "\xff"}', "model"),
        (b'{"model": "m", "stream": "yes"}', "stream"),
        (b'{"model": "m", "stream": true, "stream_options": 1}', "stream_options"),
        (b'{"model": "m", "max_tokens": "many"}', "max_tokens"),
        (b'{"model": "m", "max_tokens": -1}', "max_tokens"),
        (b'{"model": "m", "max_completion_tokens": 1e400}', "max_completion_tokens"),
        (b'{"model": "m", "max_tokens": 99999999999999999999}', "max_tokens"),
    ],
)
def test_a_bad_body_is_refused_with_the_name_of_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call("/v1/chat/completions", body)
    assert caught.value.param == param


def test_the_usage_chunk_is_requested_only_for_streams_that_did_not_ask() -> None:
    def injected(fields: dict[str, Any], path: str = "/v1/chat/completions", query: str = "") -> bool:
        return call(path, json.dumps({"model": "gpt-4o", **fields}).encode(), query).usage_injected

    assert injected({"stream": True})
    assert injected({"stream": True, "stream_options": None})
    assert injected({"stream": True, "stream_options": {"include_usage": False}})
    assert not injected({"stream": True, "stream_options": {"include_usage": True}})
    assert not injected({"stream": False})
    assert not injected({"stream": True, "data_sources": []})
    dated = "/openai/deployments/gpt-4o/chat/completions"
    assert injected({"stream": True}, dated, "api-version=2024-10-21")
    assert not injected({"stream": True}, dated, "api-version=2024-02-01")


@pytest.mark.parametrize(
    ("version", "asked"), [("2024-02-01", False), ("2024-08-01-preview", False), ("2024-10-21", True), ("v1", True)]
)
def test_the_usage_chunk_is_requested_only_from_a_backend_whose_version_knows_it(version: str, asked: bool) -> None:
    of = Backend(name="a", endpoint="https://a", region="a", models={"m": "d"}, api_version=version)
    body = b'{"model":"m","stream":true,"messages":[]}'
    request = upstream_request(call("/v1/chat/completions", body), Target(of, "m", "d"))
    assert ("stream_options" in json.loads(request.body)) == asked


def test_a_model_in_the_body_of_an_image_call_becomes_the_deployment_on_deployment_paths_too() -> None:
    path, query = "/openai/deployments/painter/images/generations", "api-version=2025-04-01-preview"
    of = Backend(name="a", endpoint="https://a", region="a", models={"painter": "prod"})
    for body, model in ((b'{"model":"painter","prompt":"a"}', "prod"), (b'{"prompt":"a"}', None)):
        request = upstream_request(call(path, body, query), Target(of, "painter", "prod"))
        assert json.loads(request.body).get("model") == model


def test_a_form_gets_a_model_where_no_path_names_it_and_keeps_none_that_is_not_the_deployment() -> None:
    of = Backend(name="a", endpoint="https://a", region="a", models={"painter": "prod", "m": "m"})
    kind = {"content-type": "multipart/form-data; boundary=x"}
    prod = b"prod"
    for path, query, model, expected in (
        (
            "/openai/deployments/painter/images/edits",
            "api-version=2025-04-01-preview",
            None,
            FormModel(prod, required=False),
        ),
        ("/gateway/images/edits/painter", "", None, FormModel(prod)),
        ("/v1/images/edits", "", "painter", FormModel(prod)),
        ("/openai/deployments/painter/audio/transcriptions", "api-version=2024-10-21", None, None),
    ):
        made = parse_upload(match("POST", path), query, kind, model, stream=False)
        assert upstream_request(made, Target(of, "painter", "prod")).form_model == expected, path
    same = parse_upload(match("POST", "/v1/images/edits"), "", kind, "m", stream=False)
    assert upstream_request(same, Target(of, "m", "m")).form_model is None


def test_other_stream_options_survive_the_injection() -> None:
    body = b'{"model":"gpt-4o","stream":true,"stream_options":{"include_obfuscation":false}}'
    request = upstream_request(call("/v1/chat/completions", body), target("gpt-4o"))
    assert json.loads(request.body)["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@given(
    fields=st.dictionaries(st.text(), JSON, max_size=6),
    edits=st.dictionaries(st.text(max_size=3), JSON, max_size=3),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_rewriting_changes_the_edited_keys_and_no_other_byte(
    fields: dict[str, Any], edits: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    fields = json.loads(body)
    raw = {key: json.dumps(value).encode() for key, value in edits.items()}
    try:
        changed = rewrite(body, top_level(body), raw)
    except InvalidRequest:
        assert len(json.loads(body, object_pairs_hook=list)) != len(fields)  # lone surrogates made two keys one
        return
    assert json.loads(changed) == fields | edits
    if not raw:
        assert changed == body
    for key, value in fields.items():  # what was not edited stands there as it was written
        if key not in edits:
            assert json.dumps(value, indent=indent, ensure_ascii=ascii_only)[:1].encode("utf-8", "replace") in changed


def test_rewriting_keeps_spaces_escapes_and_look_alikes() -> None:
    body = b'{ "a" : "\\"model\\": 1" , "m\\u006fdel":  "x", "tools":[{"model":"x"}],"n":1e0 }\n'
    assert rewrite(body, top_level(body), {"model": b'"y"'}) == body.replace(b'  "x",', b'  "y",')


@pytest.mark.parametrize(
    "body", [b'{"model":"a","model":"b"}', b'{"a":1,"model":"x","a":1}', b'{"a":{},"b":2,"a":[1]}']
)
def test_a_duplicate_key_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="duplicate key"):
        top_level(body)


def test_blanks_before_a_duplicate_key_are_read_once() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidRequest, match="duplicate key"):
        top_level(b'{"a":1' + b" " * 80_000 + b',"a":1}')
    assert time.thread_time() - began < 0.5  # once from each of them: 4 s


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"", "ok"),
        (400, b'{"error": {"code": "content_filter"}}', "caller"),
        (401, b"", "ours"),
        (403, b"<html>", "ours"),
        (404, b'{"error": {"code": "DeploymentNotFound"}}', "ours"),
        (404, b'{"error": {"code": "404"}}', "caller"),
        (408, b"", "server"),
        (413, b"", "caller"),
        (422, b"", "caller"),
        (429, b"", "capacity"),
        (500, b"", "server"),
        (503, b"", "server"),
    ],
)
def test_an_answer_is_classified_by_the_party_at_fault(status: int, body: bytes, kind: str) -> None:
    assert classify(status, body, {}) == kind


@pytest.mark.parametrize(
    ("code", "kind"), [("null", "ours"), ('"content_filter"', "caller"), ('"unknown_parameter"', "caller")]
)
def test_azures_front_end_reports_a_missing_deployment_with_a_header_and_without_a_code(code: str, kind: str) -> None:
    body = b'{"error": {"message": "Resource not found", "code": %s}}' % code.encode()
    assert classify(400, body, {"x-ms-fe-error": "true"}) == kind
    assert classify(400, body, {}) == "caller"


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (
            "The principal lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/files/write` "
            "to perform `POST /openai/files` operation.",
            "Microsoft.CognitiveServices/accounts/OpenAI/files/write",
        ),
        (
            "lacks data action Microsoft.CognitiveServices/accounts/x/read.",
            "Microsoft.CognitiveServices/accounts/x/read",
        ),
        ("Access denied due to Virtual Network/Firewall rules.", ""),
    ],
)
def test_the_data_action_that_a_role_lacks_is_read(message: str, action: str) -> None:
    assert missing_action(json.dumps({"error": {"code": "PermissionDenied", "message": message}}).encode()) == action


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "x-ratelimit-reset-tokens": "12"}, 12.0),
        ({"x-ratelimit-reset-tokens": "3s", "x-ratelimit-reset-requests": "5"}, 5.0),
        ({"retry-after": "-4"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_the_wait_after_a_429_is_read_from_its_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert wait(headers, b"") == seconds


def test_few_headers_of_the_caller_go_upstream() -> None:
    headers = {
        "authorization": "Bearer tg_secret",
        "api-key": "tg_secret",
        "cookie": "session=1",
        "content-type": "application/json",
        "x-stainless-lang": "python",
        "x-ms-invocation-id": "1",
        "x-ms-token-aad-id-token": "secret",
        "x-ms-spillover-deployment": "other",
        "x-ms-client-request-id": "mine",
        "accept": "text/\xe9",
        **{f"aoai-custom-{i}": "1" for i in range(20)},
    }
    passed = parse_call(match("POST", "/v1/embeddings"), "", headers, BODY).headers
    assert len(passed) == 10
    assert passed["x-ms-client-request-id"] == "mine"
    assert {name for name in passed if not name.startswith("aoai-")} == {"content-type", "x-ms-client-request-id"}


def test_the_calling_system_is_named_by_header_or_query() -> None:
    assert call("/v1/embeddings", systemid="erp").system == "erp"
    assert call("/v1/embeddings", query="systemId=crm").system == "crm"
    with pytest.raises(InvalidRequest):
        call("/v1/embeddings", systemid="a\nb")


def test_a_body_of_countless_keys_is_refused_before_it_costs_seconds() -> None:
    many = b"{" + b",".join(b'"k%d":1' % i for i in range(1001)) + b"}"
    with pytest.raises(InvalidRequest, match="more than 1000 keys"):
        top_level(many)
    with pytest.raises(InvalidRequest, match="more keys than any request"):
        top_level(b"{" + b",".join(b'"k%d":1' % i for i in range(200_000)) + b"}")


def test_headers_that_no_server_could_send_on_are_left_out() -> None:
    headers = {"x-request-id": "日本", "apim-request-id": "a\x0bb", "x-ms-region": "East US 2", "set-cookie": "s=1"}
    assert answers.returned_headers(headers) == {"x-ms-region": "East US 2"}


def test_a_path_of_any_length_is_answered_and_not_remembered() -> None:
    with pytest.raises(UnknownPath) as caught:
        match("GET", "/v1/models/" + "x" * 100_000)
    assert len(caught.value.message) < 600
    assert operations._match.cache_info().maxsize == 1024


@pytest.mark.parametrize(
    ("path", "fields", "leaves"),
    [
        ("/v1/responses", {"store": False}, False),
        ("/v1/responses", {"store": False, "include": ["reasoning.encrypted_content"]}, False),
        (
            "/v1/responses",
            {"store": False, "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
            True,
        ),
        ("/v1/responses", {"store": False, "tools": [{"type": "function", "name": "f"}]}, False),
        ("/v1/chat/completions", {"modalities": ["text"]}, False),
        ("/v1/chat/completions", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, True),
        ("/v1/responses/compact", {}, False),
    ],
)
def test_a_call_leaves_parts_if_later_calls_may_name_them(path: str, fields: dict[str, object], leaves: bool) -> None:
    made = call(path, json.dumps({"model": "gpt-4o", **fields}).encode())
    assert (made.leaves_parts, made.stateful) == (leaves, leaves)


def test_background_is_a_flag_of_responses_alone() -> None:
    picture = b'{"model": "gpt-image-1", "prompt": "a fox", "background": "transparent"}'
    assert not call("/v1/images/generations", picture).background
    asked = b'{"model": "gpt-4o", "background": true}'
    assert not call("/v1/chat/completions", asked).background
    assert call("/v1/responses", asked).background
    with pytest.raises(InvalidRequest, match="background"):
        call("/v1/responses", b'{"model": "gpt-4o", "background": "yes"}')
