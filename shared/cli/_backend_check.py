"""Checks that every backend is reachable, authorized and deployed, with OpenAI's official client.

Each deployment gets the smallest call of its kind: a completion of a few tokens, one embedding, or a count of tokens.
A deployment for images or audio rejects them without cost, and the error shows that it exists.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import openai

from shared.anthropic.backend_requests import MESSAGES_PREFIX
from shared.azure_openai.apis import APIS
from shared.azure_openai.backend_requests import CLASSIC_SCOPE, token_scope
from shared.config import residency
from shared.config.document import Api, Backend, Configuration, Model
from shared.config.environment import Settings
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable
from shared.lifecycle import retirement
from shared.lifecycle.retirement import Retirement

_TIMEOUT = 30.0
_REASONS = {
    401: "Unauthorized: the identity or key was rejected",
    403: "Forbidden: the role Cognitive Services OpenAI User is missing, or network rules deny access",
    404: "Not Found: no such deployment, or no such API version",
    429: "rate limited now, but reachable, authorized and deployed",
}
_REASONS_AT_OPENAI = _REASONS | {
    401: "Unauthorized: the key was rejected",
    403: "Forbidden: the key's project may not use this model, or not from this place",
    404: "Not Found: no such model, or not for this account",
}


class Finding(msgspec.Struct, frozen=True):
    """The result for one deployment. `usable`: it would serve a call, although it may be rate limited now. `end`:
    of its model, of the version that it answers with; None: not known."""

    backend: str
    region: str
    model: str
    deployment: str
    usable: bool
    result: str
    end: Retirement | None = None


async def check(settings: Settings) -> list[Finding]:
    credentials = Credentials(settings.client_id, settings.api_keys)
    try:
        document = settings.configuration
        groups = await asyncio.gather(*(_check_backend(b, credentials, document) for b in document.backends))
        return [finding for group in groups for finding in group]
    finally:
        await credentials.close()


async def _check_backend(backend: Backend, credentials: Credentials, configuration: Configuration) -> list[Finding]:
    async def secret() -> str:
        _, value = await credentials.header(backend, token_scope(backend, v1=backend.api_version == "v1"))
        return value.removeprefix("Bearer ")

    findings = []
    async with _client(backend, secret) as client:
        for model, deployment in backend.deployments.items():
            claude = model in configuration.anthropic
            calls = (partial(_count_tokens, backend, credentials),) if claude else _CALLS
            answer = await _check_deployment(client, backend.api, deployment, calls)
            findings.append(_finding(backend, model, configuration.models.get(model, Model()), answer))
    return findings


def _finding(backend: Backend, model: str, settings: Model, answer: "_Answer") -> Finding:
    place = backend.name, backend.region, model, backend.deployments[model]
    schedule = backend.api == "azure" or settings.retires
    end = retirement.of(model, settings, answer.model) if schedule else None
    return Finding(*place, answer.usable, answer.result, end)


def warnings(configuration: Configuration, findings: Iterable[Finding], now: float) -> Iterator[str]:
    """A sentence for each deployment whose model ends soon or has ended, unless a successor serves in its place; and
    for what the configuration leaves open about the places of deployments."""
    yield from residency.warnings(configuration)
    for one in findings:
        if one.end is not None and one.end.is_near(now) and configuration.served(one.model, now) == one.model:
            yield f"{one.deployment} on {one.backend}: {retirement.sentence(one.model, one.end, now)}"


def _client(backend: Backend, secret: Callable[[], Awaitable[str]]) -> openai.AsyncOpenAI:
    options: dict[str, Any] = {"max_retries": 0, "timeout": _TIMEOUT}
    if backend.api_version == "v1":
        base_url = backend.endpoint.rstrip("/") + APIS[backend.api].prefix
        return openai.AsyncOpenAI(base_url=base_url, api_key=secret, **options)
    options["azure_ad_token_provider" if backend.auth == "managed_identity" else "api_key"] = secret
    return openai.AsyncAzureOpenAI(azure_endpoint=backend.endpoint, api_version=backend.api_version, **options)


_Call = Callable[[openai.AsyncOpenAI, str], Awaitable[object]]
_CALLS: tuple[_Call, ...] = (
    lambda client, deployment: client.chat.completions.create(
        model=deployment, messages=[{"role": "user", "content": "ping"}], max_completion_tokens=16
    ),
    lambda client, deployment: client.embeddings.create(model=deployment, input="ping"),
    lambda client, deployment: client.completions.create(model=deployment, prompt="ping", max_tokens=1),
)


class _Answer(NamedTuple):
    """The answer of a deployment. `model`: the model and its version as the answer names them; "": not known."""

    usable: bool
    result: str
    model: str = ""


def _is_of_another_kind(api: Api, error: openai.APIStatusError, *, last: bool) -> bool:
    """True if a model may have rejected a call only because it is not a call of its kind."""
    if api == "openai":  # "not a chat model", "not allowed to generate embeddings": without a code
        return error.code is None and error.status_code in (400, 403, 404)
    # Some models reject the parameters of a kind with other errors.
    return error.status_code == 400 and (not last or error.code == "OperationNotSupported")


async def _count_tokens(
    backend: Backend, credentials: Credentials, client: openai.AsyncOpenAI, deployment: str
) -> object:
    """Ask Claude for the number of tokens of a prompt, which costs nothing."""
    name, value = await credentials.header(backend, backend.token_scope or CLASSIC_SCOPE)
    url = backend.endpoint.rstrip("/") + MESSAGES_PREFIX[backend.api] + "messages/count_tokens"
    body = {"model": deployment, "messages": [{"role": "user", "content": "ping"}]}
    headers: Any = {"anthropic-version": "2023-06-01", "Authorization": openai.omit} | {name.title(): value}
    return await client.post(url, cast_to=object, body=body, options={"headers": headers})


async def _check_deployment(client: openai.AsyncOpenAI, api: Api, deployment: str, calls: tuple[_Call, ...]) -> _Answer:
    """Try kinds of calls in turn, since the configuration does not name the kind of model."""
    reasons = _REASONS if api == "azure" else _REASONS_AT_OPENAI
    try:
        for call in calls:
            try:
                return _Answer(True, "ok", getattr(await call(client, deployment), "model", ""))
            except openai.APIStatusError as error:
                if calls is not _CALLS or not _is_of_another_kind(api, error, last=call is calls[-1]):
                    raise
        return _Answer(True, "ok: deployed; generates neither text nor embeddings, so it was not called")
    except openai.APIStatusError as error:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        if (error.status_code, error.code) in APIS[api].access_errors and error.status_code != 404:
            return _Answer(False, f"{error.status_code} {error.code}: the account cannot pay ({message})")
        if error.status_code == 429:
            return _Answer(True, reasons[429])
        reason = f"{error.status_code} {reasons.get(error.status_code, 'unexpected answer')}"
        return _Answer(False, f"{reason} ({message})" if message else reason)
    except openai.APITimeoutError:
        return _Answer(False, f"no answer within {_TIMEOUT:.0f} s")
    except openai.APIConnectionError as error:
        return _Answer(False, f"not reachable: {error.__cause__ or error}")
    except CredentialUnavailable as error:
        return _Answer(False, error.details)
