"""WebSockets of the API: the call that an upgrade opens, and the address at which a backend takes it. No I/O.

Sources: the guides of OpenAI and of Azure on the realtime API, and on the WebSocket mode of responses. A realtime
connection names its model in the query, as `model` or, in Azure's dated versions, as `deployment`. A connection for
responses names one in each of its events `response.create`.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import msgspec

from shared.azure_openai import backend_requests, operations, requests
from shared.azure_openai.apis import APIS
from shared.azure_openai.operations import SEGMENT, Route
from shared.errors import InvalidRequest, UnknownPath
from shared.types import Call, Operation, Reference, Surface, Target

REALTIME = Operation(name="realtime", method="GET", path="realtime", body="socket", streams=True, metered="tokens")
TRANSCRIPTION = Operation(name="realtime.transcription", method="GET", path="realtime", body="socket", metered="tokens")
RESPONSES = Operation(name="responses", method="GET", path="responses", body="socket", streams=True)
CREATE_RESPONSE = operations.match("POST", "/openai/v1/responses")  # the call that an event `response.create` makes

_PATHS: dict[str, tuple[Surface, Operation]] = {
    "/v1/realtime": ("openai", REALTIME),
    "/openai/v1/realtime": ("v1", REALTIME),
    "/openai/realtime": ("dated", REALTIME),
    "/v1/responses": ("openai", RESPONSES),
    "/openai/v1/responses": ("v1", RESPONSES),
}
_MODEL_IN = ("model", "deployment")
_NOT_PASSED = frozenset((*_MODEL_IN, "api-key"))
_TRANSCRIPTION = "transcription"  # an intent: such a session names its models in `session.update` alone


def opened(path: str, query: str, headers: Mapping[str, str]) -> Call:
    """Return the connection that an upgrade asks for, as a call. Raises `UnknownPath` and `InvalidRequest`."""
    if (entry := _PATHS.get(path.rstrip("/").lower())) is None:
        raise UnknownPath(
            f"{path[:200]} is not a path of this gateway's WebSockets. Connect to /v1/realtime?model=MODEL or "
            "/v1/responses, or as with Azure OpenAI to the same below /openai, or to "
            "/openai/realtime?api-version=VERSION&deployment=MODEL."
        )
    surface, operation = entry
    call = requests.parse_call(Route(surface, operation, operation.path), query, headers, b"")
    parameters = parse_qsl(call.query, keep_blank_values=True)
    kept = [(name, value) for name, value in parameters if name.lower() not in _NOT_PASSED]
    call = msgspec.structs.replace(call, query=urlencode(kept), stream=True)
    return _realtime(call, parameters) if operation is REALTIME else call


def _realtime(call: Call, parameters: list[tuple[str, str]]) -> Call:
    """The connection with its model, or with the call that it steers from the side."""
    models = dict.fromkeys(value for name, value in parameters if name.lower() in _MODEL_IN and value)
    calls = dict.fromkeys(value for name, value in parameters if name.lower() == "call_id")
    if len(models) > 1:
        raise InvalidRequest("The query names different models: expected one.", param="model")
    if models:
        return msgspec.structs.replace(call, model=next(iter(models)))
    if len(calls) == 1 and re.fullmatch(SEGMENT, next(iter(calls))):
        return msgspec.structs.replace(call, references=(Reference("realtime_call", next(iter(calls))),))
    raise InvalidRequest(
        "The query has no model. Connect to /v1/realtime?model=MODEL, also for transcriptions.",
        param="model",
        code="missing_model",
    )


def address(call: Call, target: Target) -> tuple[str, str]:
    """Return the URL at which a backend takes a connection, and the audience of the token for it."""
    backend = target.backend
    v1 = call.operation is RESPONSES or backend_requests.goes_to_v1(call, backend)
    parameters = parse_qsl(call.query, keep_blank_values=True)
    transcribes = any(name == "intent" and value == _TRANSCRIPTION for name, value in parameters)
    if call.operation is REALTIME and target.deployment and not (v1 and transcribes):
        parameters.insert(0, ("model" if v1 else "deployment", target.deployment))
    if not v1:
        version = call.api_version if call.surface == "dated" else backend.api_version
        parameters.insert(0, ("api-version", version or backend_requests.DEFAULT_DATED_VERSION))
    elif call.api_version and call.surface == "v1" and backend.api == "azure":
        parameters.insert(0, ("api-version", call.api_version))
    path = (APIS[backend.api].prefix if v1 else "/openai/") + call.operation.path
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"{backend.endpoint.rstrip('/')}{path}{query}", backend_requests.token_scope(backend, v1=v1)
