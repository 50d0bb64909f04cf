"""The limits of the users behind a key: a bounded number per key, and rows that are forgotten."""

import msgspec

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.callers import Product
from shared.config.document import Configuration
from shared.config.limits import Limits, LimitSettings
from shared.limits import cleanup, scopes
from shared.limits._users import UsersOfKeys
from shared.types import Consumer, Usage
from tests.harness.scripted_store import NOON, ScriptedStore


def test_beyond_a_thousand_a_day_the_users_of_a_key_share_one_limit() -> None:
    users = UsersOfKeys()
    names = [users.limited("key", f"u{number}", NOON) for number in range(1500)]
    assert names[:1000] == [f"u{number}" for number in range(1000)]
    assert set(names[1000:]) == {"*"}
    assert users.limited("key", "u7", NOON) == "u7"
    assert users.limited("other", "u1400", NOON) == "u1400"
    assert users.limited("key", "u1400", NOON + 86_400) == "u1400"


def test_all_keys_together_have_a_bounded_number() -> None:
    users = UsersOfKeys()
    for key in range(60):
        for number in range(1000):
            users.limited(f"k{key}", f"u{number}", NOON)
    assert sum(map(len, users._known.values())) == 50_000
    assert len(users._known) <= 51


def test_a_user_is_limited_only_where_one_is_named() -> None:
    configuration = Configuration(backends=[], limits=LimitSettings(users=Limits(tokens_per_minute=5)))
    consumer = Consumer("c", "portal")
    assert scopes.of_call(consumer, "m", configuration) == []
    (scope,) = scopes.of_call(consumer, "m", configuration, "anna")
    assert (scope.key, scope.about, scope.logged) == ("user:c+anna", "The user 'anna' of 'portal'", "user:c")


def test_the_limits_of_an_earlier_call_are_found_by_their_keys() -> None:
    limits = Limits(tokens_per_minute=5)
    configuration = Configuration(
        backends=[],
        limits=LimitSettings(users=limits, defaults=limits),
        products={"chat": Product(limits=limits, shared_limits=limits), "other": Product(limits=limits)},
    )
    consumer = Consumer("c", "portal", products=("other", "chat"))
    called = msgspec.structs.replace(consumer, product="chat")
    had = scopes.of_call(called, "m", configuration, "Jörg / M+ü:ller")
    assert len(had) == 4
    assert scopes.with_keys([scope.key for scope in had], consumer, "m", configuration) == had
    assert scopes.with_keys([had[0].key], consumer, "m", configuration) == had[:1]


async def test_rows_of_users_that_are_back_at_their_start_are_forgotten() -> None:
    settings = LimitSettings(users=Limits(requests_per_minute=60, token_quota=1000))
    configuration = Configuration(backends=[], limits=settings)
    store = ScriptedStore()
    limiter = store.limiter(users=settings.users)
    consumer, body = Consumer("c", "portal"), b'{"model": "m", "messages": []}'
    parsed = parse_call(match("POST", "/v1/chat/completions"), "", {}, body)
    for user, tokens in (("idle", 0), ("using", 9)):
        reservation = await limiter.reserve(consumer, msgspec.structs.replace(parsed, user=user))
        limiter.settle(reservation, Usage(output_tokens=tokens))
    await limiter.close()
    assert set(store.rows("limits")) == {"user:c+idle", "user:c+using"}
    assert await cleanup.forget_idle(store, configuration) == 0
    store.time += 1.5 * 86_400
    assert await cleanup.forget_idle(store, configuration) == 1
    assert set(store.rows("limits")) == {"user:c+using"}  # a part of its month's quota is used
