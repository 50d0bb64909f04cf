"""The cache of Entra tokens, with a credential and a clock of the test."""

import asyncio
from typing import Any, NamedTuple

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity import CredentialUnavailableError

from shared.credentials import TokenCache
from shared.errors import CredentialUnavailable

SCOPE = "https://storage.azure.com/.default"


class Token(NamedTuple):
    token: str
    expires_on: float


class Identity:
    """Opens credentials whose tokens live as long as the test says; a life of None fails."""

    def __init__(self, *lives: float | None) -> None:
        self.now = 1_000_000.0
        self.lives = list(lives)
        self.scopes: list[str] = []
        self.opened = 0
        self.closed = 0
        self.failure: Exception | None = None

    def cache(self) -> TokenCache:
        return TokenCache(self.open, lambda: self.now)

    def open(self) -> Any:
        self.opened += 1
        return self

    async def close(self) -> None:
        self.closed += 1

    async def get_token(self, *scopes: str) -> Token:
        self.scopes += scopes
        await asyncio.sleep(0)
        life = self.lives.pop(0)
        if life is None and self.failure is not None:
            raise self.failure
        if life is None:
            raise RuntimeError("no token today.\n" + "\tA source of tokens: is not there.\n" * 40 + "Run az login.")
        return Token(f"token{len(self.scopes)}", self.now + life)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_at_the_same_time_share_one_request() -> None:
    identity = Identity(3600)
    cache = identity.cache()
    assert cache.cached(SCOPE) is None
    assert set(await asyncio.gather(*(cache.header(SCOPE) for _ in range(3)))) == {"Bearer token1"}
    assert identity.scopes == [SCOPE]
    await cache.close()
    assert (identity.opened, identity.closed) == (1, 1)


async def test_a_token_is_renewed_ahead_and_stays_in_use_while_that_fails() -> None:
    identity = Identity(3600, None, 3600)
    cache = identity.cache()
    await cache.header(SCOPE)
    identity.now += 2999  # 601 s left
    assert cache.cached(SCOPE) == "Bearer token1"
    await settled()
    assert len(identity.scopes) == 1
    identity.now += 2
    for _ in range(2):  # the second is within two seconds of the failure
        assert cache.cached(SCOPE) == "Bearer token1"
        await settled()
    assert len(identity.scopes) == 2
    identity.now += 2
    assert cache.cached(SCOPE) == "Bearer token1"
    await settled()
    assert cache.cached(SCOPE) == "Bearer token3"
    await cache.close()


async def test_a_short_token_is_renewed_in_its_last_third_and_not_used_to_the_last_second() -> None:
    identity = Identity(90, 90)
    cache = identity.cache()
    await cache.header(SCOPE)
    identity.now += 59
    cache.cached(SCOPE)
    await settled()
    assert len(identity.scopes) == 1
    identity.now += 22  # 9 s left
    assert cache.cached(SCOPE) is None
    assert await cache.header(SCOPE) == "Bearer token2"
    await cache.close()


async def test_after_a_failure_callers_fail_at_once_for_two_seconds(caplog: pytest.LogCaptureFixture) -> None:
    identity = Identity(None, 3600)
    cache = identity.cache()
    with pytest.raises(CredentialUnavailable, match=r"got no token \(RuntimeError\): the log has the reason"):
        await cache.header(SCOPE)
    assert f"no token for {SCOPE}: RuntimeError: no token today" in caplog.text
    with pytest.raises(CredentialUnavailable, match=r"got no token \(RuntimeError\): the log has the reason"):
        await cache.header(SCOPE)
    assert len(identity.scopes) == 1
    identity.now += 2
    assert await cache.header(SCOPE) == "Bearer token2"
    await cache.close()


async def test_a_caller_that_gives_up_leaves_the_token_to_the_others() -> None:
    identity = Identity(3600)
    cache = identity.cache()
    patient = asyncio.ensure_future(cache.header(SCOPE))
    with pytest.raises(CredentialUnavailable, match="within 0 s"):
        await cache.header(SCOPE, 0)
    assert await patient == "Bearer token1"
    await cache.close()


async def test_a_rejected_token_is_renewed_by_a_new_credential_once_a_minute() -> None:
    identity = Identity(3600, 3600, 3600)
    cache = identity.cache()
    await cache.header(SCOPE)
    for _ in range(2):
        cache.rejected(SCOPE)
        assert cache.cached(SCOPE) == "Bearer token1"
    await settled()
    assert cache.cached(SCOPE) == "Bearer token2"
    cache.rejected(SCOPE)
    await settled()
    assert (cache.cached(SCOPE), identity.opened, identity.closed) == ("Bearer token2", 2, 0)
    identity.now += 60
    cache.rejected(SCOPE)
    cache.cached(SCOPE)
    await settled()
    assert (cache.cached(SCOPE), identity.opened, identity.closed) == ("Bearer token3", 3, 1)
    await cache.close()
    assert identity.closed == 3


async def test_warming_fetches_in_the_background_and_closing_ends_it() -> None:
    identity = Identity(3600, None)
    cache = identity.cache()
    cache.warm([SCOPE])
    await settled()
    assert cache.cached(SCOPE) == "Bearer token1"
    cache.warm(["other"])
    await cache.close()
    assert cache.cached("other") is None


async def test_the_reason_of_a_failure_is_whole_and_is_repeated() -> None:
    """The remedy is at the end of a long text; `check` asks for several backends at a time."""
    identity = Identity(None)
    cache = identity.cache()
    reasons = []
    for _ in range(2):
        with pytest.raises(CredentialUnavailable) as failed:
            await cache.header(SCOPE)
        reasons.append(failed.value.details)
    assert reasons[0] == reasons[1]
    assert reasons[0].endswith("is not there. Run az login.")
    assert "\n" not in reasons[0]
    assert len(identity.scopes) == 1
    await cache.close()


REFUSED = (
    "AADSTS700016: Application '11111111-2222-3333-4444-555555555555' was not found in the directory 'contoso'. "
    'https://login.invalid/contoso client_secret=hunter2 {"client_assertion": "top"} eyJhbGciOiJub25lIn0.eyJhIjoxfQ.x'
)


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ClientAuthenticationError(REFUSED), "check AZURE_CLIENT_ID"),
        (CredentialUnavailableError(REFUSED), "assign a managed identity"),
        (ServiceRequestError(REFUSED), "cannot be reached"),
        (ValueError(REFUSED), "the log has the reason"),
    ],
)
async def test_callers_learn_the_kind_of_a_failure_and_operators_its_text_without_secrets(
    failure: Exception, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    identity = Identity(None)
    identity.failure = failure
    cache = identity.cache()
    with pytest.raises(CredentialUnavailable) as failed:
        await cache.header(SCOPE)
    message = str(failed.value)
    assert type(failure).__name__ in message
    assert remedy in message
    for part in ("AADSTS", "1111", "contoso", "login.invalid", "storage.azure.com"):
        assert part not in message
        assert part in caplog.text
    for secret in ("hunter2", "top", "eyJ"):
        assert secret not in message + caplog.text + failed.value.details
    await cache.close()
