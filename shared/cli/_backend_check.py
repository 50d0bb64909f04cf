"""Is every backend reachable, authorised, deployed? Asked with the official client, as a caller of Azure would.

Each deployment gets the smallest call of its kind: one token of a completion, or one embedding. One that makes pictures
or sound is not called, because that would cost: that Azure knows what it cannot do shows that it is there.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import openai

from shared.azure_openai.backend_requests import token_scope
from shared.config.document import Backend
from shared.config.environment import Settings
from shared.credentials import Credentials
from shared.errors import CredentialUnavailable

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
    """A finding per deployment of every backend, with the credentials that the gateway uses."""
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
    if backend.api_version == "v1":
        base = backend.endpoint.rstrip("/") + "/openai/v1"
        return openai.AsyncOpenAI(base_url=base, api_key=secret, max_retries=0, timeout=_TIMEOUT)
    keyed = backend.auth != "managed_identity"
    return openai.AsyncAzureOpenAI(
        azure_endpoint=backend.endpoint,
        api_version=backend.api_version,
        api_key=secret if keyed else None,
        azure_ad_token_provider=None if keyed else secret,
        max_retries=0,
        timeout=_TIMEOUT,
    )


async def _check_deployment(client: openai.AsyncOpenAI, deployment: str) -> tuple[bool, str]:
    """What kind of model a deployment holds is not in the configuration: it is what answers."""
    try:
        for call in (_chat, _embed, _complete):
            try:
                await call(client, deployment)
                break
            except openai.BadRequestError as error:
                # Some models refuse these parameters by other words; the next kind of call tells.
                if call is _complete and error.code != "OperationNotSupported":
                    raise
        else:
            return True, "ok: deployed; not called, because it makes neither text nor vectors"
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
    except CredentialUnavailable as error:
        return False, str(error)
    return True, "ok"


async def _chat(client: openai.AsyncOpenAI, deployment: str) -> None:
    await client.chat.completions.create(
        model=deployment, messages=[{"role": "user", "content": "ping"}], max_completion_tokens=16
    )


async def _embed(client: openai.AsyncOpenAI, deployment: str) -> None:
    await client.embeddings.create(model=deployment, input="ping")


async def _complete(client: openai.AsyncOpenAI, deployment: str) -> None:
    await client.completions.create(model=deployment, prompt="ping", max_tokens=1)
