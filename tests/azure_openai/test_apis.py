"""OpenAI's own API beside Azure's: its addresses, headers, errors and waits, and the calls that never go there."""

import json
from typing import Any

import pytest

from shared.azure_openai import apis
from shared.azure_openai.answers import (
    ReportedError,
    classify,
    duration,
    equivalent_status,
    is_about_another_model,
    wait,
)
from shared.azure_openai.backend_requests import headers_for, upstream_request
from shared.azure_openai.multipart import FormModel
from shared.azure_openai.operations import OPERATIONS, match
from shared.azure_openai.requests import parse_call, parse_upload
from shared.config.document import ApiKey, Backend
from shared.credentials import Credentials
from shared.routing import quota
from shared.routing.deployments import deployment_key, parted
from shared.routing.quota import Sent
from shared.types import Access, Call, Target

BODY = b'{"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-4o"}'
OPENAI = Backend(
    name="openai",
    endpoint="https://api.openai.com",
    models={"gpt-4o": "gpt-4o-2024-11-20"},
    kind="openai",
    auth=ApiKey("OPENAI_KEY"),
)
TARGET = Target(OPENAI, "gpt-4o", "gpt-4o-2024-11-20")
DATED = "api-version=2024-10-21"


def call(path: str, body: bytes = BODY, query: str = "", method: str = "POST", **headers: str) -> Call:
    return parse_call(match(method, path), query, headers, body)


@pytest.mark.parametrize(
    ("path", "query", "url"),
    [
        ("/v1/chat/completions", "", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "api-version=preview", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", DATED, "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/embeddings", DATED + "&x=1", "/v1/embeddings?x=1"),
        ("/openai/responses", "api-version=2025-04-01-preview", "/v1/responses"),
        ("/gateway/chat/completions/gpt-4o", "", "/v1/chat/completions"),
    ],
)
def test_every_api_style_reaches_openai_with_its_path_translated_alone(path: str, query: str, url: str) -> None:
    request = upstream_request(call(path, query=query), TARGET)
    assert request.url == "https://api.openai.com" + url
    assert request.body == BODY.replace(b'"gpt-4o"', b'"gpt-4o-2024-11-20"')
    assert request.scope == ""


def test_a_dated_call_without_a_model_in_its_body_gets_openais_name_of_it() -> None:
    body = b'{"messages": []}'
    request = upstream_request(call("/openai/deployments/gpt-4o/chat/completions", body, DATED), TARGET)
    assert json.loads(request.body) == {"messages": [], "model": "gpt-4o-2024-11-20"}
    form = parse_upload(
        match("POST", "/openai/deployments/gpt-4o/audio/transcriptions"),
        DATED,
        {"content-type": "multipart/form-data; boundary=b"},
        None,
        stream=False,
    )
    assert upstream_request(form, TARGET).form_model == FormModel(b"gpt-4o-2024-11-20", required=True)


def test_azures_headers_stay_behind_and_the_key_goes_as_a_bearer_token() -> None:
    given = {"x-ms-client-request-id": "1", "aoai-evals": "preview", "openai-beta": "assistants=v2"}
    made = parse_call(match("POST", "/v1/chat/completions"), "", given, BODY)
    assert headers_for(made, OPENAI) == {"openai-beta": "assistants=v2", "content-type": "application/json"}
    azure = Backend(name="a", endpoint="https://a", region="r", models={"m": "m"}, auth=ApiKey("KEY"))
    credentials = Credentials(None, {"openai": "sk-1", "a": "k"})
    assert credentials.cached(OPENAI, "") == ("authorization", "Bearer sk-1")
    assert credentials.cached(azure, "scope") == ("api-key", "k")


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "headers", "param"),
    [
        ("POST", "/v1/files/import", b"{}", "", {}, None),
        ("POST", "/openai/realtimeapi/sessions", BODY, DATED, {}, None),
        ("DELETE", "/v1/fine_tuning/jobs/ftjob-1", b"", "", {}, None),
        ("GET", "/openai/files", b"", DATED, {}, None),
        ("POST", "/openai/threads", b"{}", DATED, {}, None),
        ("POST", "/v1/chat/completions", BODY[:-1] + b', "data_sources": []}', "", {}, "data_sources"),
        ("POST", "/v1/responses", BODY, "", {apis.IMAGE_DEPLOYMENT: "painter"}, apis.IMAGE_DEPLOYMENT),
    ],
)
def test_what_azure_alone_has_never_goes_to_openai(
    method: str, path: str, body: bytes, query: str, headers: dict[str, str], param: str | None
) -> None:
    made = parse_call(match(method, path), query, headers, body)
    refusal = apis.refusal(made, "openai")
    assert refusal is not None
    assert (refusal.status, refusal.param) == ((404, None) if param is None else (400, param))
    assert "Azure" in refusal.message or "OpenAI has no" in refusal.message
    assert apis.refusal(made, "azure") is None


def test_all_other_operations_are_served_by_openai_at_its_own_paths() -> None:
    alone = {operation.name for operation in OPERATIONS if operation.apis == ("azure",)}
    assert alone == {
        "files.import",
        "fine_tuning.jobs.delete",
        "fine_tuning.jobs.checkpoints.copy",
        "fine_tuning.jobs.checkpoints.copied",
        "realtimeapi.sessions",
        "realtimeapi.transcription_sessions",
    }


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, "ours"),
        (429, {"code": "rate_limit_exceeded", "type": "tokens"}, "capacity"),
        (429, {"code": "billing_not_active"}, "ours"),
        (400, {"code": "billing_hard_limit_reached"}, "ours"),
        (404, {"code": "model_not_found"}, "ours"),
        (403, {"code": "unsupported_country_region_territory"}, "ours"),
        (401, {"code": "invalid_api_key"}, "ours"),
        (404, {"code": None, "message": "Invalid URL (POST /v1/nothing)"}, "caller"),
        (400, {"code": "context_length_exceeded"}, "caller"),
        (503, {"code": "slow_down"}, "server"),
    ],
)
def test_openais_errors_are_classified_by_the_party_at_fault(status: int, error: dict[str, Any], kind: str) -> None:
    body = json.dumps({"error": error}).encode()
    assert classify(status, body, {}, "openai") == kind


@pytest.mark.parametrize(
    ("status", "message", "others", "about"),
    [
        (404, "model: haiku", [], False),
        (404, "model: haiku", ["nope"], False),
        (404, "The model `Haiku` does not exist.", ["nope"], False),
        (404, "model: nope", ["nope"], True),
        (404, "model: nope", ["haiku", "nope"], True),
        (404, "model: haiku-2", ["haiku-2"], True),
        (404, "model: my haiku", ["my haiku"], True),
        (404, "model: haiku", ["haiku"], False),
        (404, "The API deployment for this resource does not exist.", ["nope"], True),
        (404, "The API deployment for this resource does not exist.", [], False),
        (403, "You may not use nope.", ["nope"], True),
        (403, "You may not use haiku with nope.", ["nope"], False),
        (403, "You may not use this.", ["nope"], False),
        (401, "nope", ["nope"], False),
        (402, "No credit for nope.", ["nope"], True),
        (402, "Your credit balance is too low.", ["nope"], False),
        (429, "model nope: rate limit", ["nope"], True),
        (529, "model nope: overloaded", ["nope"], True),
        (429, "This would exceed the rate limit of your organization.", ["nope"], False),
        (429, "haiku and nope: rate limit", ["nope"], False),
        (429, "nope, as haiku-prod: rate limit", ["nope"], False),
        (429, "nope-2, my-nope and nope.5: rate limit", ["nope"], False),
        (429, "rate limit", [""], False),
        (500, "nope", ["nope"], False),
    ],
)
def test_an_error_about_a_model_beside_the_deployment_is_told_apart(
    status: int, message: str, others: list[str], about: bool
) -> None:
    report = json.dumps({"error": {"message": message}}).encode()
    assert is_about_another_model(status, report, ("haiku-prod", "haiku"), others) == about


def test_openais_codes_mean_nothing_at_azure() -> None:
    assert classify(404, b'{"error": {"code": "model_not_found"}}', {}) == "caller"
    assert classify(404, b'{"error": {"code": "DeploymentNotFound"}}', {}, "openai") == "caller"


def test_an_empty_account_is_no_throttle_inside_of_a_stream_either() -> None:
    assert equivalent_status(ReportedError("insufficient_quota", "insufficient_quota", "…"), {}) == 402


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("12", 12.0), ("3s", 3.0), ("120ms", 0.12), ("6m0s", 360.0), ("1h2m3.5s", 3723.5), ("1d", 86_400.0)),
        *(("8.64s", 8.64), ("1m30s500ms", 90.5), ("", None), (None, None), ("soon", None), ("-4", None), ("5m3", None)),
    ],
)
def test_a_reset_is_read_in_azures_form_and_in_openais(text: str | None, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached for gpt-4o on requests per min: Limit 3. Please try again in 20s. Visit …", 20.0),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 412ms. Visit", 0.412),
        ("Please try again in 3 days.", None),
        ("Please try again in 5.", None),
    ],
)
def test_the_message_of_a_429_is_read_before_the_resets_which_end_later(message: str, seconds: float | None) -> None:
    report = json.dumps({"error": {"message": message}}).encode()
    resets = {"x-ratelimit-reset-tokens": "6s", "x-ratelimit-reset-requests": "23h59m0s"}
    assert wait(resets, report) == pytest.approx(seconds or 86_340.0)
    assert wait(resets | {"retry-after-ms": "900"}, report) == 0.9


def test_openais_rate_limit_headers_predict_the_next_refusal() -> None:
    headers = {
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "58.2s",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
    }
    reading = quota.read(headers, Sent(), 100.0)
    assert reading is not None
    assert reading.tokens_until == pytest.approx(158.2)
    assert reading.requests_until == pytest.approx(100.12)
    assert reading.refuses(1000, Sent(), 150.0)
    assert not reading.refuses(1000, Sent(), 159.0)


def test_openai_has_a_place_of_its_own_that_no_limited_key_reaches() -> None:
    assert OPENAI.region == "openai"
    assert Access().allows(OPENAI, "gpt-4o")
    for access in (Access(regions=frozenset({"openai"})), Access(data_zones=frozenset({"eu"}))):
        assert not access.allows(OPENAI, "gpt-4o")
        assert not access.allows(OPENAI, "")


def test_a_models_name_may_have_colons_and_a_tier_behind() -> None:
    tuned = "ft:gpt-4.1-mini-2025-04-14:contoso::B2xFvDr9"
    for deployment, tier in ((tuned, ""), (tuned, "flex"), ("plain", "priority"), ("plain", "")):
        _, key = deployment_key(Target(OPENAI, "m", deployment, tier))
        assert parted(key) == (deployment, tier)
