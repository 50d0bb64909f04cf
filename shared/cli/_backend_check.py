"""Checks that every backend is reachable, authorized and deployed, with OpenAI's official client.

Each deployment gets the smallest call of its kind: a completion of a few tokens, or one embedding. A deployment for
images or audio rejects them without cost, and the error shows that it exists.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import openai

from shared.azure_openai.backend_requests import token_scope
from shared.config.document import Backend
from shared.config.environment import Settings
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable

_TIMEOUT = 30.0
_REASONS = {
    401: "Unauthorized: the identity or key was rejected",
    403: "Forbidden: the role Cognitive Services OpenAI User is missing, or network rules deny access",
    404: "Not Found: no such deployment, or no such API version",
    429: "rate limited now, but reachable, authorized and deployed",
}


class Finding(msgspec.Struct, frozen=True):
    """The result for one deployment. `usable`: it would serve a call, although it may be rate limited now."""

    backend: str
    region: str
    model: str
    deployment: str
    usable: bool
    result: str


async def check(settings: Settings) -> list[Finding]:
    credentials = Credentials(settings.client_id, settings.api_keys)
    try:
        groups = await asyncio.gather(*(_check_backend(b, credentials) for b in settings.configuration.backends))
        return [finding for group in groups for finding in group]
    finally:
        await credentials.close()


async def _check_backend(backend: Backend, credentials: Credentials) -> list[Finding]:
    async def secret() -> str:
        _, value = await credentials.header(backend, token_scope(backend, v1=backend.api_version == "v1"))
        return value.removeprefix("Bearer ")

    async with _client(backend, secret) as client:
        return [
            Finding(backend.name, backend.region, model, deployment, *await _check_deployment(client, deployment))
            for model, deployment in backend.models.items()
        ]


def _client(backend: Backend, secret: Callable[[], Awaitable[str]]) -> openai.AsyncOpenAI:
    options: dict[str, Any] = {"max_retries": 0, "timeout": _TIMEOUT}
    if backend.api_version == "v1":
        return openai.AsyncOpenAI(base_url=backend.endpoint.rstrip("/") + "/openai/v1", api_key=secret, **options)
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


async def _check_deployment(client: openai.AsyncOpenAI, deployment: str) -> tuple[bool, str]:
    """Try kinds of calls in turn, since the configuration does not name the kind of model."""
    try:
        for call in _CALLS:
            try:
                await call(client, deployment)
                return True, "ok"
            except openai.BadRequestError as error:
                # Some models reject these parameters with other errors: go on to the next kind of call.
                if call is _CALLS[-1] and error.code != "OperationNotSupported":
                    raise
        return True, "ok: deployed; generates neither text nor embeddings, so it was not called"
    except openai.RateLimitError:
        return True, _REASONS[429]
    except openai.APIStatusError as error:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        reason = f"{error.status_code} {_REASONS.get(error.status_code, 'unexpected answer')}"
        return False, f"{reason} ({message})" if message else reason
    except openai.APITimeoutError:
        return False, f"no answer within {_TIMEOUT:.0f} s"
    except openai.APIConnectionError as error:
        return False, f"not reachable: {error.__cause__ or error}"
    except CredentialUnavailable as error:
        return False, str(error)
