"""The APIs that a region can play: Azure OpenAI, OpenAI itself, Anthropic. Paths, credentials, headers, errors differ.

Sources of OpenAI's: its API reference (errors, rate limits) and the bodies that its clients' issues quote.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from .errors import AzureError, invalid_key, invalid_token
from .request_log import LogEntry
from .targets import Target, check_api_version, find_anthropic_target, find_openai_target, find_target

Api = Literal["azure", "openai", "anthropic"]
_ORGANIZATION = "org-simulator"


class Credentials(msgspec.Struct, frozen=True):
    """The credentials of a request. `is_key`, `is_token`: whether a text is the account's key, or a valid token."""

    bearer: str | None
    api_key: str
    anthropic_key: str
    is_key: Callable[[str], bool]
    is_token: Callable[[str], bool]


class Dialect(msgspec.Struct, frozen=True):
    """One API. `client_request_id`: the header with the caller's id of a request. `headers`: of every answer, by the
    display name of the region and that id; `limits`: the headers of a deployment's
    limits in its form; `refusal`: an error in its form. `filters`: answers have the results of content filters.
    `most_custom_headers` None: any number."""

    find_target: Callable[[str, str], Target | None]
    check_version: Callable[[Target, str | None], None]
    check_credentials: Callable[[Credentials, Target | None], None]
    client_request_id: str
    headers: Callable[[str, str | None], dict[str, str]]
    limits: Callable[[dict[str, str]], dict[str, str]]
    refusal: Callable[[AzureError, LogEntry], AzureError]
    filters: bool
    most_custom_headers: int | None


# --- Azure ------------------------------------------------------------------------------------------------------------


def _check_at_azure(credentials: Credentials, target: Target | None) -> None:
    """The v1 surface also accepts a key as a bearer token, which is how OpenAI's client sends it."""
    if target is not None and target.surface == "anthropic" and credentials.is_key(credentials.anthropic_key):
        return
    if credentials.bearer is not None:
        is_key = target is not None and target.surface == "v1" and credentials.is_key(credentials.bearer)
        if not is_key and not credentials.is_token(credentials.bearer):
            raise invalid_token()
    elif not credentials.is_key(credentials.api_key):
        raise invalid_key()


def _azure_headers(display: str, client_request_id: str | None) -> dict[str, str]:
    headers = {"apim-request-id": str(uuid.uuid4()), "x-request-id": str(uuid.uuid4()), "x-ms-region": display}
    return headers if client_request_id is None else headers | {"x-ms-client-request-id": client_request_id}


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def _check_at_openai(credentials: Credentials, target: Target | None) -> None:
    if credentials.bearer is None:
        raise _error(401, "You didn't provide an API key. You need to provide your API key in an Authorization header.")
    if not credentials.is_key(credentials.bearer):
        masked = credentials.bearer[:2] + "*" * 8 + credentials.bearer[-4:]
        raise _error(401, f"Incorrect API key provided: {masked}.", code="invalid_api_key")


def _ignore_version(target: Target, version: str | None) -> None:
    """OpenAI has no versions of its API, and ignores the parameter."""


def _openai_headers(display: str, client_request_id: str | None) -> dict[str, str]:
    return {
        "x-request-id": f"req_{uuid.uuid4().hex}",
        "openai-organization": _ORGANIZATION,
        "openai-processing-ms": "7",
        "openai-version": "2020-10-01",
    }


def _openai_limits(headers: dict[str, str]) -> dict[str, str]:
    """Resets as durations. There is no name of a deployment."""
    return {
        name: duration(float(value)) if "-reset-" in name else value
        for name, value in headers.items()
        if name.startswith("x-ratelimit-")
    }


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: 120ms, 8.64s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + text


def _openai_refusal(refusal: AzureError, entry: LogEntry) -> AzureError:
    body = msgspec.json.decode(refusal.body, type=dict[str, Any])
    error = body.get("error", {})
    model = entry.deployment
    match error.get("code"):
        case "DeploymentNotFound" | "ResourceNotFound":
            message = f"The model `{model}` does not exist or you do not have access to it."
            return _error(404, message, code="model_not_found")
        case "404":
            return _error(404, f"Invalid URL ({entry.method} {entry.path})")
        case "OperationNotSupported" if entry.operation == "embeddings":
            return _error(403, "You are not allowed to generate embeddings from this model")
        case "OperationNotSupported" if entry.operation == "completions":
            message = (
                "This is a chat model and not supported in the v1/completions endpoint. Did you mean to use "
                "v1/chat/completions?"
            )
            return _error(404, message, param="model")
        case "OperationNotSupported":
            message = (
                "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to "
                "use v1/completions?"
            )
            return _error(404, message, param="model")
        case "RateLimitReached":
            return _limited(refusal, str(error["message"]), model)
    return refusal


def _limited(refusal: AzureError, message: str, model: str | None) -> AzureError:
    kind, words = ("tokens", "tokens per min (TPM)") if "token rate" in message else ("requests", "requests per min")
    wait = duration(int(refusal.headers["retry-after-ms"]) / 1000)
    text = (
        f"Rate limit reached for {model} in organization {_ORGANIZATION} on {words}. Please try again in {wait}. Visit "
        "https://platform.openai.com/account/rate-limits to learn more."
    )
    return _error(429, text, kind=kind, code="rate_limit_exceeded", headers=refusal.headers)


def _error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AzureError:
    return AzureError(
        status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, dict(headers or {})
    )


# --- Anthropic --------------------------------------------------------------------------------------------------------


def _check_at_anthropic(credentials: Credentials, target: Target | None) -> None:
    if not credentials.is_key(credentials.anthropic_key):
        raise _error(401, "invalid x-api-key")


def _anthropic_headers(display: str, client_request_id: str | None) -> dict[str, str]:
    return {"request-id": f"req_{uuid.uuid4().hex[:24]}", "anthropic-organization-id": _ORGANIZATION}


def _anthropic_limits(headers: dict[str, str]) -> dict[str, str]:
    """Resets as times."""
    named: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith("x-ratelimit-"):
            place, what = name.removeprefix("x-ratelimit-").split("-")
            if place == "reset":
                value = f"{datetime.fromtimestamp(time.time() + float(value), UTC):%Y-%m-%dT%H:%M:%SZ}"
            named[f"anthropic-ratelimit-{what}-{place}"] = value
    return named


def _anthropic_refusal(refusal: AzureError, entry: LogEntry) -> AzureError:
    code = msgspec.json.decode(refusal.body, type=dict[str, Any]).get("error", {}).get("code")
    if code == "DeploymentNotFound":
        return AzureError(404, {"error": {"message": f"model: {entry.deployment}"}})
    return refusal


DIALECTS: dict[Api, Dialect] = {
    "azure": Dialect(
        find_target=find_target,
        check_version=check_api_version,
        check_credentials=_check_at_azure,
        client_request_id="x-ms-client-request-id",
        headers=_azure_headers,
        limits=lambda headers: headers,
        refusal=lambda refusal, entry: refusal,
        filters=True,
        most_custom_headers=10,
    ),
    "openai": Dialect(
        find_target=find_openai_target,
        check_version=_ignore_version,
        check_credentials=_check_at_openai,
        client_request_id="x-client-request-id",
        headers=_openai_headers,
        limits=_openai_limits,
        refusal=_openai_refusal,
        filters=False,
        most_custom_headers=None,
    ),
    "anthropic": Dialect(
        find_target=find_anthropic_target,
        check_version=_ignore_version,
        check_credentials=_check_at_anthropic,
        client_request_id="x-client-request-id",
        headers=_anthropic_headers,
        limits=_anthropic_limits,
        refusal=_anthropic_refusal,
        filters=False,
        most_custom_headers=None,
    ),
}
