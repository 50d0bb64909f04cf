"""Turns a caller's request into a `Call`."""

import contextlib
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import msgspec

from shared.azure_openai import model_paths, multipart, references
from shared.azure_openai.backend_requests import forwarded_headers, usage_edit
from shared.azure_openai.json_body import UNREADABLE, JsonFields, top_level
from shared.azure_openai.operations import IN_QUERY, MODEL_OF_SESSION, Route
from shared.azure_openai.outline import Outline
from shared.errors import InvalidRequest
from shared.types import Call, Operation, Reference

_OUTPUT_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


_WITH_USAGE_CHUNK = frozenset(("chat.completions", "completions"))


_STORED_IF = {
    "chat_completion": False,
    "response": True,
}  # the default of `store`, by kind


# The tools that the backend runs. Later calls may name their items and containers, stored response or not.
_HOSTED = (b"file_search", b"code_interpreter", b"image_generation", b"web_search", b"shell", b"mcp")


_MOST_REFERENCES = 1000  # each may need a lookup


_LARGEST_SESSION = 256 * 1024  # bytes of the settings of a realtime call, with instructions and tools


_BLANKS = b" \t\r\n"  # allowed around a JSON value


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which .NET and PowerShell put before UTF-8


_USER_AT = ("safety_identifier", "user")
_LONGEST_USER = 1024  # bytes


_TEXT = msgspec.json.Decoder(str)


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_METADATA = msgspec.json.Decoder(_Metadata)


_SYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,63}")


def parse_call(
    route: Route, query: str, headers: Mapping[str, str], body: bytes, outline: Outline | None = None
) -> Call:
    """The call in a request. `outline`: that of a large body. Raises `InvalidRequest` (400), which names the offending
    parameter."""
    call = _bodiless(route, query, headers)
    if route.operation.body == "none":
        if body and body.removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS) not in (b"", b"{}", b"null"):
            raise InvalidRequest(f"{route.operation.method} {route.path} takes no body.")
        return call
    if not body and route.operation.model not in ("body", "form"):
        return call
    json = route.operation.body == "json"
    return with_body(call, body.removeprefix(_BYTE_ORDER_MARK) if json else body, outline)


def parse_upload(route: Route, query: str, headers: Mapping[str, str], model: str | None, *, stream: bool) -> Call:
    """The call in a request with a multipart body. `model`, `stream`: the values of these fields, as far as they have
    arrived."""
    call = _bodiless(route, query, headers)
    kind = multipart.content_type(multipart.boundary(headers.get("content-type", "")))
    call = msgspec.structs.replace(
        call, stream=stream and route.operation.streams, headers=call.headers | {"content-type": kind}
    )
    if route.operation.model != "form":
        return msgspec.structs.replace(call, multipart=True)
    if not (call.model or model):
        raise _missing_model()
    return msgspec.structs.replace(call, multipart=True, model=call.model or model, body_model=model)


def _missing_model() -> InvalidRequest:
    return InvalidRequest("The field `model` is missing: name the model to call.", param="model", code="missing_model")


def _bodiless(route: Route, query: str, headers: Mapping[str, str]) -> Call:
    parameters = parse_qsl(query, keep_blank_values=True) if query else []
    system = headers.get("systemid") or next((v for k, v in parameters if k.lower() == "systemid"), "")
    if system and not _SYSTEM.fullmatch(system):
        raise InvalidRequest(
            "systemId: expected at most 64 letters, digits, spaces and . _ : @ / -, as the name of the calling system.",
            param="systemId",
        )
    versions = dict.fromkeys(v for k, v in parameters if k.lower() == "api-version")
    if len(versions) > 1:
        raise InvalidRequest("The query has two values of api-version: expected one.", param="api-version")
    version = next(iter(versions), None)
    if route.surface == "dated" and not version:
        raise InvalidRequest(
            "The query parameter api-version is missing, e.g. ?api-version=2024-10-21.", param="api-version"
        )
    passed_on = [(k, v) for k, v in parameters if k.lower() not in ("systemid", "api-version")]
    operation = route.operation
    return Call(
        operation=operation,
        surface=route.surface,
        model=route.model or "",
        path=route.path,
        query=urlencode(passed_on) if passed_on else "",
        api_version=version,
        stream=operation.body == "none" and operation.streams and _streams(parameters),
        headers=forwarded_headers(headers, route.surface),
        system=system,
        references=route.references,
        makes=operation.makes,
    )


def _streams(parameters: list[tuple[str, str]]) -> bool:
    return any(name.lower() == "stream" and value.lower() == "true" for name, value in parameters)


def with_body(call: Call, body: bytes, outline: Outline | None = None) -> Call:
    """The call with a JSON body, or an offer. Raises `InvalidRequest`."""
    operation = call.operation
    if operation.body == "sdp":
        return _with_offer(call, body)
    values = top_level(body)
    fields = JsonFields(body, values)
    named, model_at = _named_model(operation, fields) if operation.model != "none" else (None, "model")
    model = "" if operation.model == "hidden" else call.model or named or operation.default_model
    if not model and operation.model in ("body", "form"):
        raise _missing_model()
    stream = operation.streams and bool(fields.get("stream", bool, "true or false"))
    usage, integers, output, makes = {}, {}, None, operation.makes
    if operation.metered in ("tokens", "once"):
        bounds = {name: fields.tokens(name) for name in _OUTPUT_BOUNDS}
        output = max((bound for bound in bounds.values() if bound is not None), default=None)
        integers = _integers(bounds, body, values)
        usage = usage_edit(fields, call) if stream and operation.name in _WITH_USAGE_CHUNK else {}
    if makes in _STORED_IF:
        store = fields.get("store", bool, "true or false")
        makes = makes if (_STORED_IF[makes] if store is None else store) else ""
    other_models = model_paths.in_request(body, values, operation.name, outline)
    named_too, brought = _named_objects(body, operation, outline)
    return msgspec.structs.replace(
        call,
        model=model,
        body=body,
        headers=call.headers | {"content-type": "application/json"},
        values=values,
        body_model=named,
        other_models=other_models,
        model_at=model_at,
        edits=usage | integers,
        stream=stream,
        background=operation.name == "responses.create" and bool(fields.get("background", bool, "true or false")),
        usage_injected=bool(usage),
        input_estimate=len(body) // 4 if operation.metered not in ("none", "once") else 0,
        max_output_tokens=output,
        references=(*call.references, *named_too) if named_too else call.references,
        brought=brought,
        makes=makes,
        leaves_parts=_leaves_parts(operation, body, values),
        user=_user_in_metadata(body, values) if call.surface == "anthropic" else _user(body, values),
    )


def _user(body: bytes, values: Mapping[str, slice]) -> str:
    """The end user that a body names; "" if it names none in a text."""
    for name in _USER_AT:
        place = values.get(name)
        if place is not None and place.stop - place.start <= _LONGEST_USER:
            with contextlib.suppress(*UNREADABLE):
                return _TEXT.decode(body[place])
    return ""


def _user_in_metadata(body: bytes, values: Mapping[str, slice]) -> str:
    """The end user that the body of a message names; "" if it names none in a text."""
    place = values.get("metadata")
    if place is not None and place.stop - place.start <= _LONGEST_USER:
        with contextlib.suppress(*UNREADABLE):
            return _METADATA.decode(body[place]).user_id or ""
    return ""


def _integers(bounds: Mapping[str, int | None], body: bytes, values: Mapping[str, slice]) -> dict[str, bytes]:
    """The edits that write integers such as `100.0` as backends take them."""
    return {
        name: b"%d" % bound for name, bound in bounds.items() if bound is not None and not body[values[name]].isdigit()
    }


def _leaves_parts(operation: Operation, body: bytes, values: Mapping[str, slice]) -> bool:
    match operation.name:
        case "responses.create":
            tools = values.get("tools")
            return tools is not None and any(body.find(tool, tools.start, tools.stop) >= 0 for tool in _HOSTED)
        case "messages.create":
            tools = values.get("tools")
            runs_code = tools is not None and body.find(b"code_execution", tools.start, tools.stop) >= 0
            return runs_code or "thread" in values or "diagnostics" in values
        case "chat.completions":
            return "audio" in values  # spoken answers have ids that later messages name
    return False


def _named_objects(
    body: bytes, operation: Operation, outline: Outline | None = None
) -> tuple[tuple[Reference, ...], frozenset[str]]:
    """The objects that a body names, and the ids of the items that it brings."""
    try:
        named, brought = references.in_request(body, operation.name, outline)
    except (RecursionError, ValueError) as error:
        raise references.too_complex(error) from None
    if len(named) > _MOST_REFERENCES:
        raise InvalidRequest(f"The body names more than {_MOST_REFERENCES} objects.")
    return named, brought


def _with_offer(call: Call, body: bytes) -> Call:
    """The call in a WebRTC offer: a form with offer and session, or the offer alone, with the model in the query."""
    kind, values = call.headers.get("content-type", ""), {}
    if kind.lower().startswith("multipart/"):
        parting = multipart.boundary(kind)
        kind = multipart.content_type(parting)
        fields = multipart.FormFields(parting, (b"session",), _LARGEST_SESSION)
        for start in range(0, len(body), _LARGEST_SESSION):
            fields.feed(body[start : start + _LARGEST_SESSION])
        fields.finish()
        if session := fields.values.get(b"session"):
            blanks = len(session.value) - len(session.value.lstrip(_BLANKS))
            values["session"] = slice(session.start + blanks, session.start + len(session.value))
    elif not kind.lower().startswith("application/sdp"):
        raise InvalidRequest(
            "The content-type is wrong: expected application/sdp, or multipart/form-data with `sdp` and `session`."
        )
    else:
        kind = "application/sdp"
    named, model_at = _named_model(call.operation, JsonFields(body, values))
    parameters = parse_qsl(call.query, keep_blank_values=True)
    in_query = next((value for name, value in parameters if name.lower() == "model"), None)
    if not (named or in_query):
        raise _missing_model()
    if in_query and model_at != MODEL_OF_SESSION:
        named = None  # this model only transcribes for the one in the query
    if named and in_query and named != in_query:
        raise InvalidRequest("The query and the session name different models: expected one.", param="model")
    return msgspec.structs.replace(
        call,
        model=named or in_query,
        query=urlencode([(name, value) for name, value in parameters if name.lower() != "model"]),
        body=body,
        headers=call.headers | {"content-type": kind},
        values=values,
        body_model=named,
        other_models=model_paths.in_request(body, values, call.operation.name),
        model_at=model_at if named else IN_QUERY,
        references=_named_objects(body[values["session"]], call.operation)[0] if values else (),
    )


def _named_model(operation: Operation, fields: JsonFields) -> tuple[str | None, str]:
    """The model that a body names, and the path of its field, which may stand in an object of another field."""
    if operation.model_at == ("model",):
        return fields.get("model", str, "a string that names a model"), "model"
    for place in operation.model_at:
        inner = fields
        *outer, last = place.split(".")
        for name in outer:
            inner = inner.below(name)
        if named := inner.get(last, str, "a string that names a model"):
            return named, place
    return None, operation.model_at[0]
