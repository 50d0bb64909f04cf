"""Every model that a body names is seen, wherever it stands."""

import json

import pytest

from shared.anthropic import operations as messages
from shared.azure_openai import operations, requests
from shared.azure_openai.model_paths import MODELS
from shared.azure_openai.operations import OPERATIONS
from shared.errors import InvalidRequest
from shared.types import Operation
from tests.harness import client_types
from tests.harness.reference_bodies import places, planted

OTHER = "another-model"
POSTS = [one for one in (*OPERATIONS, *messages.OPERATIONS) if one.method == "POST" and one.model != "hidden"]
NO_MODELS = {"svg_usage.model": "reports what has been used"}


def call_of(operation: Operation, body: dict[str, object]) -> tuple[str, ...]:
    """The models that a body names, besides those that choose its deployment."""
    path = "/v1/" + operation.path.replace("{", "").replace("}", "_12345")
    fields = body if operation.body != "sdp" else {**body, "sdp": "v=0"}
    if operation.body == "sdp":
        session = json.dumps({"model": "gpt-realtime", **body.get("session", {})})  # type: ignore[dict-item]
        form = f'--b\r\nContent-Disposition: form-data; name="session"\r\n\r\n{session}\r\n--b--'.encode()
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return requests.parse_call(operations.match("POST", path), "", headers, form).other_models
    if operation.model in ("body", "form") and operation.model_at == ("model",):
        fields = {"model": "gpt-4o", **body}
    if operation.name.endswith("transcription_sessions"):
        fields = {"input_audio_transcription": {"model": "whisper"}, **body}
    if operation.name == "realtime.client_secrets":
        fields = {"session": {"model": "gpt-realtime", **body["session"]}}  # type: ignore[dict-item]
    match = messages.match if operation.format == "anthropic" else operations.match
    return requests.parse_call(match("POST", path), "", {}, json.dumps(fields).encode()).other_models


@pytest.mark.parametrize("operation", POSTS, ids=lambda one: one.name)
def test_every_model_of_the_clients_types_is_seen(operation: Operation) -> None:
    for body in client_types.parameters_of(operation):
        for path, _ in client_types.strings(body):
            text = ".".join(path)
            if path[-1] != "model" or text in operation.model_at or any(text.endswith(end) for end in NO_MODELS):
                continue
            assert OTHER in call_of(operation, planted(path, OTHER)), path
            assert OTHER in call_of(operation, planted(path, OTHER, in_lists=len(path) > 2 and path[0] != "session")), (
                path
            )


def test_the_excuses_are_used_and_the_operations_exist() -> None:
    paths = {
        ".".join(path)
        for one in POSTS
        for body in client_types.parameters_of(one)
        for path, _ in client_types.strings(body)
    }
    assert all(any(path.endswith(end) for path in paths) for end in NO_MODELS)
    assert MODELS.keys() - {"realtime"} <= {operation.name for operation in POSTS}  # its events: tests/sockets


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"realtime"}))
def test_every_path_of_the_table_is_seen_in_any_case(name: str) -> None:
    [operation] = [one for one in POSTS if one.name == name]
    for path, _ in places(MODELS[name]):
        if path in (("model",), ("session", "model"), ("fallbacks",)) or ".".join(path) in operation.model_at:
            continue  # it chooses the deployment, or leaves the choice to the backend
        for written in (path, (*path[:-1], path[-1].upper())):
            assert OTHER in call_of(operation, planted(written, OTHER)), written


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", '{"model": "gpt-4o", "Model": "o4-mini"}'),
        ("/v1/chat/completions", '{"MODEL": "gpt-4o"}'),
        ("/v1/responses", '{"model": "gpt-4o", "Background": true}'),
        ("/v1/chat/completions", '{"model": "gpt-4o", "Stream": true}'),
        ("/v1/chat/completions", '{"model": "gpt-4o", "Store": true}'),
        ("/v1/chat/completions", '{"model": "gpt-4o", "Max_Tokens": 5}'),
        ("/v1/threads/thread_1/runs", '{"assistant_id": "asst_12345", "mOdel": "gpt-4o"}'),
        ("/v1/realtime/client_secrets", '{"session": {"model": "gpt-realtime", "Model": "x"}}'),
        ("/v1/realtime/client_secrets", '{"Session": {"model": "gpt-realtime"}}'),
        (
            "/v1/realtime/client_secrets",
            '{"session": {"Model": "x", "audio": {"input": {"transcription": {"model": "whisper"}}}}}',
        ),
    ],
)
def test_a_field_in_another_case_is_refused(path: str, body: str) -> None:
    with pytest.raises(InvalidRequest):
        requests.parse_call(operations.match("POST", path), "", {}, body.encode())
