"""Is every backend reachable, authorised, deployed? Asked with the official client, as a caller of Azure would.

Each deployment gets the smallest call of its kind: one token of a completion, or one embedding.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import openai
from azure.core.credentials_async import AsyncTokenCredential

from shared.azure_openai import token_scope
from shared.config import Settings
from shared.credentials import azure_credential
from shared.types import Backend

_TIMEOUT = 30.0
_REASONS = {
    401: "not authorised: the identity or key is not accepted",
    403: "not authorised: the role Cognitive Services OpenAI User is missing, or network rules refuse",
    404: "no such deployment, or no such API version",
    429: "throttled just now; it is reachable, authorised and deployed",
}


class Finding(msgspec.Struct, frozen=True):
    """What came of one deployment's check. `usable`: a caller's request would be served (if not at once)."""

    backend: str
    region: str
    model: str
    deployment: str
    usable: bool
    result: str


async def check(settings: Settings) -> list[Finding]:
    """A finding per deployment of every backend."""
    credential = None
    if any(backend.auth == "managed_identity" for backend in settings.configuration.backends):
        credential = azure_credential(settings.client_id)
    try:
        backends = settings.configuration.backends
        groups = await asyncio.gather(*(_check_backend(b, settings.api_keys.get(b.name), credential) for b in backends))
        return [finding for group in groups for finding in group]
    finally:
        if credential is not None:
            await credential.close()


async def _check_backend(backend: Backend, key: str | None, credential: AsyncTokenCredential | None) -> list[Finding]:
    secret: str | Callable[[], Awaitable[str]] = key or _token_provider(backend, credential)
    async with _client(backend, secret) as client:
        return [
            Finding(backend.name, backend.region, model, deployment, *await _check_deployment(client, deployment))
            for model, deployment in backend.models.items()
        ]


def _client(backend: Backend, secret: str | Callable[[], Awaitable[str]]) -> openai.AsyncOpenAI:
    if backend.api_version == "v1":
        base = backend.endpoint.rstrip("/") + "/openai/v1"
        return openai.AsyncOpenAI(base_url=base, api_key=secret, max_retries=0, timeout=_TIMEOUT)
    return openai.AsyncAzureOpenAI(
        azure_endpoint=backend.endpoint,
        api_version=backend.api_version,
        api_key=secret if isinstance(secret, str) else None,
        azure_ad_token_provider=secret if callable(secret) else None,
        max_retries=0,
        timeout=_TIMEOUT,
    )


def _token_provider(backend: Backend, credential: AsyncTokenCredential | None) -> Callable[[], Awaitable[str]]:
    async def token() -> str:
        assert credential is not None
        return (await credential.get_token(token_scope(backend, v1=backend.api_version == "v1"))).token

    return token


async def _check_deployment(client: openai.AsyncOpenAI, deployment: str) -> tuple[bool, str]:
    """What kind of model a deployment holds is not in the configuration: it is what answers."""
    try:
        try:
            await client.chat.completions.create(
                model=deployment, messages=[{"role": "user", "content": "ping"}], max_completion_tokens=16
            )
        except openai.BadRequestError:
            try:
                await client.embeddings.create(model=deployment, input="ping")
            except openai.BadRequestError:
                await client.completions.create(model=deployment, prompt="ping", max_tokens=1)
    except openai.RateLimitError:
        return True, _REASONS[429]
    except openai.APIStatusError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        return False, f"{error.status_code} {_REASONS.get(error.status_code, 'unexpected answer')}" + (
            f" ({said})" if said else ""
        )
    except openai.APITimeoutError:
        return False, f"no answer within {_TIMEOUT:.0f} s"
    except openai.APIConnectionError as error:
        return False, f"not reachable: {error.__cause__ or error}"
    except Exception as error:  # azure-identity raises its own errors while the client asks for a token
        return False, f"no token: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return True, "ok"
