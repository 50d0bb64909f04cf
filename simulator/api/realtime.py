"""HTTP operations of the realtime API: client secrets, sessions and calls."""

from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, WholeAnswer, answer_json
from simulator.call import Call, Route, decode_json
from simulator.collection import Object, make_id, now

SECRET_SECONDS = 600


class _Expiry(msgspec.Struct, frozen=True):
    seconds: int = SECRET_SECONDS


class _SecretRequest(msgspec.Struct, frozen=True):
    session: Object | None = None
    expires_after: _Expiry | None = None


class _SessionRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    modalities: list[str] | None = None
    voice: str | None = None


def make_secret(call: Call) -> Answer:
    request = call.decode(_SecretRequest)
    session = request.session or {}
    _check_model(call, session)
    seconds = (request.expires_after or _Expiry()).seconds
    body = {"type": "realtime", "object": "realtime.session", "id": make_id("sess_"), **session}
    return answer_json({**_secret(seconds), "session": body})


def _secret(seconds: int = SECRET_SECONDS) -> Object:
    return {"value": make_id("ek_"), "expires_at": now() + seconds}


def _check_model(call: Call, session: Object) -> None:
    """Raises AzureError 400 or 404. Transcription sessions name their model elsewhere and pass unchecked."""
    model = session.get("model")
    if model is not None:
        deployment = call.deployments.find(str(model))
        if deployment.model.kind != "realtime":
            raise errors.operation_not_supported("realtime", deployment.model.name)


def make_session(call: Call) -> Answer:
    request = call.decode(_SessionRequest)
    _check_model(call, {"model": request.model})
    facts: Any = {"id": make_id("sess_"), "object": "realtime.session", "model": request.model}
    facts["client_secret"] = _secret()
    return answer_json(
        {**facts, "modalities": request.modalities or ["text", "audio"], "voice": request.voice or "alloy"}
    )


def make_transcription_session(call: Call) -> Answer:
    request = call.decode(_SessionRequest)
    facts = {"id": make_id("sess_"), "object": "realtime.transcription_session", "client_secret": _secret()}
    return answer_json({**facts, "modalities": request.modalities or ["text"]})


def begin_call(call: Call) -> Answer:
    """Answer a WebRTC offer. The `Location` header has the call id."""
    if call.form is not None:
        offer = call.form.required("sdp")
        session = call.form.field("session")
        if session is not None:
            _check_model(call, decode_json(session.encode(), dict[str, Any]))
    else:
        offer = call.body.decode("utf-8", "replace")
        _check_model(call, {"model": call.query.get("model")})
    if not offer.startswith("v=0"):
        raise errors.invalid_request("The SDP offer could not be read.", "sdp")
    call_id = make_id("rtc_")
    call.store.realtime_calls.add(call_id)
    location = {"location": f"/openai/v1/realtime/calls/{call_id}"}
    return WholeAnswer(b"v=0\r\ns=simulator\r\n", None, "application/sdp", 201, location)


def steer_call(call: Call) -> Answer:
    """Accept, reject, hang up or refer a call."""
    if call.id not in call.store.realtime_calls:
        raise errors.object_not_found(f"No call found with id '{call.id}'.")
    if call.entry.path.endswith(("/hangup", "/reject")):
        call.store.realtime_calls.discard(call.id)
    return WholeAnswer(b"")


ROUTES = (
    Route("POST", "realtime/client_secrets", make_secret),
    Route("POST", "realtime/sessions", make_session),
    Route("POST", "realtime/transcription_sessions", make_transcription_session),
    Route("POST", "realtimeapi/sessions", make_session, azure_alone=True),
    Route("POST", "realtimeapi/transcription_sessions", make_transcription_session, azure_alone=True),
    Route("POST", "realtime/calls", begin_call),
    Route("POST", "realtime/calls/{id}/accept", steer_call),
    Route("POST", "realtime/calls/{id}/reject", steer_call),
    Route("POST", "realtime/calls/{id}/hangup", steer_call),
    Route("POST", "realtime/calls/{id}/refer", steer_call),
)
