"""Tokens of Entra ID: who is admitted, who is not and why, and what each costs. The tenant is the simulator's."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.auth import keys
from shared.auth.authenticator import Authenticator
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.auth.entra import EntraTokens
from shared.auth.signing_keys import SigningKeys
from shared.config.callers import CallerRule, EntraSettings
from shared.config.limits import Limits
from shared.errors import CallerNotAllowed, GatewayError, IdentityUnavailable, InvalidApiKey, StoreUnavailable
from shared.storage import Properties, Table
from shared.types import Access, Consumer
from simulator.process import SimulatorProcess
from simulator.tenant import APPLICATION_ID, TENANT_ID
from tests.harness.consumer_changes import change
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore

CALL = CallerRule(app_role="Gateway.Call")
GROUP = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"


@pytest.fixture
def tenant(simulated_process: SimulatorProcess) -> Iterator[SimulatorProcess]:
    simulated_process.clear()
    yield simulated_process
    simulated_process.clear()


class Store(MemoryStore):
    """A store whose writes fail when the test says so, and whose reads of a partition are counted."""

    def __init__(self) -> None:
        self.ahead = 0.0
        super().__init__(lambda: time.time() + self.ahead)
        self.refuses_writes = False
        self.is_dead = False
        self.scans: list[str] = []

    def table(self, name: str) -> Any:
        table: Table = super().table(name)
        put, scan = table.put, table.scan

        async def refusing(partition: str, key: str, properties: Properties, etag: str | None) -> str | None:
            if self.refuses_writes:
                raise StoreUnavailable("no writes")
            return await put(partition, key, properties, etag)

        def counted(partition: str, first: str = "", end: str = "") -> Any:
            if self.is_dead:
                raise StoreUnavailable("dead")
            self.scans.append(partition)
            return scan(partition, first, end)

        table.put, table.scan = refusing, counted  # type: ignore[method-assign]
        return table


class House:
    """An authenticator with a tenant. Its clocks are the machine's, `ahead` by what the test says."""

    def __init__(self, authority: str, rules: Sequence[CallerRule], tenants: list[str], audiences: list[str]) -> None:
        self.ahead = 0.0
        self.store = Store()
        self.consumers = Consumers(self.store)
        settings = EntraSettings(tenants, audiences, list(rules), authority)
        self.settings = settings
        self.first = Authenticator(self.consumers, self.store.now, self.clock)
        self.authenticator = self.first.with_settings(settings)
        self.keys = self.first._signing_keys

    @property
    def tokens(self) -> EntraTokens:
        assert self.authenticator.tokens is not None
        return self.authenticator.tokens

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    async def who(self, token: str) -> Consumer:
        return await self.authenticator.authenticate({"authorization": f"Bearer {token}"})

    async def reason(self, token: str) -> str:
        """The reason why a token is refused, which must not repeat the token."""
        with pytest.raises(InvalidApiKey) as refused:
            await self.who(token)
        assert refused.value.status == 401
        message = refused.value.message
        assert len(message) < 500
        assert not any(part in message for part in token[:20_000].split(".") if len(part) > 20)
        return message

    async def row(self, consumer_id: str) -> Record:
        """The row of a consumer, which is written in the background."""
        for _ in range(200):
            if (record := await self.consumers.find(consumer_id)) is not None:
                return record
            await asyncio.sleep(0.01)
        raise AssertionError("no row")

    async def later(self, seconds: float) -> None:
        """Let time pass for the caches, and reads in the background end."""
        self.ahead += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def house(
    tenant: SimulatorProcess,
    *rules: CallerRule,
    tenants: Sequence[str] = (TENANT_ID,),
    audiences: Sequence[str] = ("api://tollgate", APPLICATION_ID),
    authority: str = "",
) -> AsyncIterator[House]:
    made = House(authority or tenant.tenant["authority"], rules or (CALL,), list(tenants), list(audiences))
    try:
        yield made
    finally:
        await made.first.close()


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(token: str, header: Any = None, claims: Any = None, signature: str | None = None) -> str:
    """A token with other parts, and the signature of the original."""
    parts = token.split(".")
    if header is not None:
        parts[0] = segment(header)
    if claims is not None:
        parts[1] = segment(claims)
    if signature is not None:
        parts[2] = signature
    return ".".join(parts)


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def published(tenant: SimulatorProcess) -> list[dict[str, Any]]:
    url = f"{tenant.tenant['authority']}/{TENANT_ID}/discovery/keys"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        keys: list[dict[str, Any]] = json.load(answer)["keys"]
        return keys


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("user", "ann@contoso.com"), ("app", None), ("managed_identity", "ann")],
)
async def test_users_apps_and_managed_identities_call_with_tokens_of_both_versions(
    tenant: SimulatorProcess, version: int, kind: str, name: str | None
) -> None:
    token = tenant.token("ann", kind=kind, roles=["Gateway.Call"], version=version)
    claims = claims_of(token)
    async with house(tenant) as gateway:
        caller = await gateway.who(token)
        assert caller.id == f"entra-{TENANT_ID}-{claims['oid']}"
        assert caller.name == (name or ("ann" if version == 1 else claims["azp"]))
        assert (await gateway.row(caller.id)).consumer.name == caller.name


async def test_a_token_is_verified_once_and_forgotten_when_it_ends(tenant: SimulatorProcess) -> None:
    token = tenant.token(roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        first = await gateway.who(token)
        await gateway.row(first.id)
        await gateway.later(3.0)
        reads = tenant.key_reads()
        scans = len(gateway.store.scans)
        for _ in range(50):
            assert (await gateway.who(token)).id == first.id
        assert tenant.key_reads() == reads
        assert len(gateway.store.scans) == scans
        assert len(gateway.tokens._verified) == 1
        gateway.store.ahead += 3600 + 30
        await gateway.who(token)
        gateway.store.ahead += 31
        assert "has expired" in await gateway.reason(token)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another tenant": ({"claims": {"tid": OTHER}}, "whose callers this gateway does not admit"),
    "no tenant": ({"claims": {"tid": None}}, "from the tenant none"),
    "an issuer of another tenant": ({"claims": {"iss": f"https://sts.windows.net/{OTHER}/"}}, "was issued by"),
    "an issuer that begins alike": ({"claims": {"iss": f"https://sts.windows.net/{TENANT_ID}/x"}}, "was issued by"),
    "another audience": ({"audience": "https://graph.microsoft.com"}, "for the audience 'https://graph.microsoft.com'"),
    "no audience": ({"claims": {"aud": []}}, "for the audience none"),
    "expired": ({"lifetime_seconds": -61}, "has expired"),
    "never ending": ({"claims": {"exp": None}}, "has expired"),
    "not yet valid": ({"claims": {"nbf": time.time() + 86_400}}, "not valid yet"),
    "no object": ({"claims": {"oid": None}}, "has no oid"),
    "an object that is a path": ({"claims": {"oid": "../../consumers"}}, "has no oid"),
    "a token for signing in": ({"claims": {"appid": None}}, "is not an access token"),
    "roles that are no list": ({"claims": {"roles": "Gateway.Call"}}, "wrong types"),
    "an audience of another type": ({"claims": {"aud": {"api://tollgate": True}}}, "wrong types"),
    "a key with the characters of a path": ({"headers": {"kid": "../../../etc/passwd"}}, "does not publish"),
    "a key with control characters": ({"headers": {"kid": "a\r\nb\0"}}, "does not publish"),
    "no key": ({"headers": {"kid": None}}, "has no kid"),
    "an empty key": ({"headers": {"kid": ""}}, "has no kid"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_token_of_the_tenant_that_is_not_for_this_gateway_is_refused(
    tenant: SimulatorProcess, case: str
) -> None:
    fields, reason = REFUSED[case]
    token = tenant.token(**{"roles": ["Gateway.Call"], **fields})
    async with house(tenant) as gateway:
        for _ in range(2):  # the second time from memory
            assert reason in await gateway.reason(token)


async def test_a_clock_that_is_a_minute_off_is_forgiven(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        await gateway.who(tenant.token(roles=["Gateway.Call"], lifetime_seconds=-30))
        await gateway.who(tenant.token(roles=["Gateway.Call"], claims={"nbf": time.time() + 50}))


async def test_a_token_that_is_not_valid_yet_is_accepted_later(tenant: SimulatorProcess) -> None:
    token = tenant.token(roles=["Gateway.Call"], claims={"nbf": time.time() + 600})
    async with house(tenant) as gateway:
        assert "not valid yet" in await gateway.reason(token)
        gateway.store.ahead += 600
        await gateway.who(token)


async def test_forged_tokens_are_refused(tenant: SimulatorProcess) -> None:
    good = tenant.token(roles=["Gateway.Call"])
    header, claims = jwt.get_unverified_header(good), claims_of(good)
    (key, *_) = published(tenant)
    public = jwt.PyJWK(key | {"alg": "RS256"}).key
    own = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    foreign = rsa.generate_private_key(65537, 2048)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hs256 = forged(good, {**header, "alg": "HS256"})
    hs256 = forged(hs256, signature=segment(hmac.digest(pem, hs256.rpartition(".")[0].encode(), hashlib.sha256)))
    admin = {**claims, "roles": ["Gateway.Call", "Gateway.Admin"]}
    jku = jwt.encode(claims, foreign, "RS256", {**header, "jku": tenant.tenant["authority"], "x5u": "http://x"})
    embedded = jwt.encode(claims, foreign, "RS256", {**header, "jwk": own.to_jwk(foreign.public_key(), as_dict=True)})
    cases = {
        forged(good, {**header, "alg": "none"}, signature=""): "signed with 'none'",
        forged(good, {**header, "alg": "None"}, signature=""): "signed with 'None'",
        hs256: "signed with 'HS256'",
        forged(good, {**header, "alg": "RS512"}): "signed with 'RS512'",
        forged(good, {**header, "alg": ["RS256"]}): "wrong types",
        forged(good, claims=admin): "signature of the token is wrong",
        forged(good, signature=""): "signature of the token is wrong",
        forged(good, signature="AAAA"): "signature of the token is wrong",
        jwt.encode(claims, foreign, "RS256", header): "signature of the token is wrong",
        jku: "signature of the token is wrong",
        embedded: "signature of the token is wrong",
        forged(good, {**header, "crit": ["b64"], "b64": False}): "signature of the token is wrong",
    }
    async with house(tenant) as gateway:
        await gateway.who(good)
        for token, reason in cases.items():
            for _ in range(2):
                assert reason in await gateway.reason(token), token
        assert (await gateway.who(good)).name == "someone"


async def test_texts_that_are_no_tokens_are_refused_at_once(tenant: SimulatorProcess) -> None:
    good = tenant.token(roles=["Gateway.Call"])
    deep = b"[" * 5_000
    hostile = [
        "eyJ" + "A" * 10_000_000 + ".eyJ.x",
        "eyJ" + "." * 5_000_000,
        "eyJ..",
        "eyJhbGciOiJSUzI1NiJ9..",
        "eyJ.eyJ.é",
        forged(good, deep),
        forged(good, claims=b'{"tid":' + deep),
        forged(good, claims=b'{"exp": 1e999}'),
        forged(good, claims=b'{"exp": NaN}'),
        forged(good, claims=b'{"exp": ' + b"9" * 5_000 + b"}"),
        forged(good, claims=b"\xff\xfe"),
        forged(good, claims=b"null"),
        forged(good, claims=b'"text"'),
        forged(good, claims=[]),
        f"{good}.{good}",
        f"{good}.x.y",
        good.replace(".", " ."),
    ]
    async with house(tenant) as gateway:
        await gateway.who(good)
        for token in hostile:
            await gateway.reason(token)
        assert len(gateway.tokens._rejected) < len(hostile)  # longer ones are not kept
        assert all(len(reason) < 500 for reason in gateway.tokens._rejected.values())


async def test_rejected_tokens_are_remembered_apart_and_bounded(
    tenant: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.auth.entra._MOST_REJECTED", 10)
    good = tenant.token(roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        caller = await gateway.who(good)
        for number in range(40):
            await gateway.reason(forged(good, signature=segment(bytes([number]) * 256)))
        assert len(gateway.tokens._rejected) == 10
        assert await gateway.who(good) == caller
        assert len(gateway.tokens._verified) == 1


async def test_keys_roll_over_without_a_refused_call(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        old = tenant.token("old", roles=["Gateway.Call"])
        await gateway.who(old)
        tenant.roll_keys()
        await gateway.later(61.0)
        new = tenant.token("new", roles=["Gateway.Call"])
        await gateway.who(new)
        await gateway.who(tenant.token("new", roles=["Gateway.Call"], version=2))
        await gateway.who(old)


async def test_a_key_that_is_withdrawn_ends_the_tokens_that_it_signed(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        old = tenant.token("old", roles=["Gateway.Call"])
        await gateway.who(old)
        tenant.roll_keys(withdraw=True)
        await gateway.who(old)
        await gateway.later(3601.0)
        await gateway.who(old)  # and the keys are read in the background
        for _ in range(200):
            if gateway.keys.withdrawn:
                break
            await asyncio.sleep(0.01)
        assert "does not publish" in await gateway.reason(old)
        await gateway.who(tenant.token("new", roles=["Gateway.Call"]))


async def test_made_up_keys_cause_one_read_a_minute(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        await gateway.who(tenant.token(roles=["Gateway.Call"]))
        tokens = [tenant.token(headers={"kid": f"made-up-{number}"}) for number in range(5)]
        reads = tenant.key_reads()
        for minute in range(3):
            for token in tokens * 3:
                assert "does not publish" in await gateway.reason(token)
            assert tenant.key_reads() == reads + 2 * minute  # a read asks for two lists
            await gateway.later(61.0)


async def test_many_first_tokens_share_one_read_of_the_keys(tenant: SimulatorProcess) -> None:
    tokens = [tenant.token(f"caller-{number}", roles=["Gateway.Call"]) for number in range(20)]
    async with house(tenant) as gateway:
        await asyncio.gather(*(gateway.who(token) for token in tokens))
        assert tenant.key_reads() == 2


async def test_without_keys_a_token_gets_503_and_the_keys_are_asked_for_every_two_seconds(
    tenant: SimulatorProcess,
) -> None:
    token = tenant.token(roles=["Gateway.Call"])
    tenant.set_tenant(failing_status=503)
    async with house(tenant) as gateway:
        for _ in range(5):
            with pytest.raises(IdentityUnavailable) as refused:
                await gateway.who(token)
            assert refused.value.status == 503
        tenant.set_tenant()
        await gateway.later(2.1)
        await gateway.who(token)


async def test_a_tenant_that_does_not_answer_holds_a_call_for_two_and_a_half_seconds(tenant: SimulatorProcess) -> None:
    token = tenant.token(roles=["Gateway.Call"])
    tenant.set_tenant(delay_seconds=60)
    async with house(tenant) as gateway:
        started = time.monotonic()
        with pytest.raises(IdentityUnavailable):
            await gateway.who(token)
        assert 2.4 < time.monotonic() - started < 20


async def test_known_keys_serve_while_the_tenant_is_out_of_reach_but_not_for_ever(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        await gateway.who(tenant.token(roles=["Gateway.Call"]))
        tenant.set_tenant(failing_status=500)
        for _ in range(3):
            await gateway.later(3601.0)
            await gateway.who(tenant.token(roles=["Gateway.Call"]))
        with pytest.raises(IdentityUnavailable):  # it may be a new key: nobody knows
            await gateway.who(tenant.token(roles=["Gateway.Call"], headers={"kid": "unknown"}))
        await gateway.later(86_400.0)
        with pytest.raises(IdentityUnavailable):
            await gateway.who(tenant.token(roles=["Gateway.Call"]))


async def test_the_first_rule_that_matches_applies(tenant: SimulatorProcess) -> None:
    oid = claims_of(tenant.token("ann", kind="user"))["oid"]
    client = claims_of(tenant.token("batch"))["appid"]
    rules = (
        CallerRule(object=oid.upper(), team="research", limits=Limits(tokens_per_minute=1)),
        CallerRule(group=GROUP, app_role="Gateway.Call", product="both"),
        CallerRule(group=GROUP.upper(), product="group", models=["gpt-4o"]),
        CallerRule(app=client, regions=["eastus2"], data_zones=["us"]),
        CallerRule(app_role="Gateway.Call", product="standard"),
    )
    async with house(tenant, *rules) as gateway:

        async def product(**fields: Any) -> tuple[str, ...]:
            return (await gateway.who(tenant.token(**fields))).products

        ann = await gateway.who(tenant.token("ann", kind="user", groups=[GROUP], roles=["Gateway.Call"]))
        assert (ann.team, ann.limits, ann.products) == ("research", Limits(tokens_per_minute=1), ())
        assert await product(name="b", groups=[GROUP], roles=["Gateway.Call"]) == ("both",)
        member = await gateway.who(tenant.token("c", groups=[OTHER, GROUP]))
        assert (member.products, member.models) == (("group",), frozenset(["gpt-4o"]))
        batch = await gateway.who(tenant.token("batch", roles=["Gateway.Call"]))
        assert batch.access == Access(regions=frozenset(["eastus2"]), data_zones=frozenset(["us"]))
        assert await product(name="d", roles=["Other", "Gateway.Call"]) == ("standard",)
        with pytest.raises(CallerNotAllowed, match="No rule of this gateway admits e") as refused:
            await gateway.who(tenant.token("e", roles=["gateway.call"], groups=[OTHER]))
        assert (refused.value.status, refused.value.code) == (403, "caller_not_allowed")


async def test_a_caller_in_too_many_groups_is_told_so_and_so_is_the_operator(
    tenant: SimulatorProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tenant, CallerRule(group=GROUP), CallerRule(app_role="Gateway.Call")) as gateway:
        for fields in ({"many_groups": True}, {"claims": {"hasgroups": True}}, {"claims": {"hasgroups": "true"}}):
            with pytest.raises(CallerNotAllowed, match=r"Its groups are not known: .* Use app roles"):
                await gateway.who(tenant.token("ann", kind="user", **fields))
        await gateway.who(tenant.token("bob", kind="user", roles=["Gateway.Call"], many_groups=True))
    warnings = [record.message for record in caplog.records if "are not known" in record.message]
    assert len(warnings) == 2
    async with house(tenant, CALL) as gateway:
        with pytest.raises(CallerNotAllowed) as refused:
            await gateway.who(tenant.token("ann", kind="user", many_groups=True))
    assert "groups" not in refused.value.message


async def test_an_identity_can_be_renamed_limited_and_revoked_alone(tenant: SimulatorProcess) -> None:
    rule = CallerRule(
        app_role="Gateway.Call", limits=Limits(tokens_per_minute=100, requests_per_minute=7), regions=["eastus2"]
    )
    ann, bob = (tenant.token(name, roles=["Gateway.Call"]) for name in ("ann", "bob"))
    async with house(tenant, rule) as gateway:
        caller = await gateway.who(ann)
        await gateway.row((await gateway.who(bob)).id)
        record = await gateway.row(caller.id)
        assert record.state_at(gateway.store.now()) == "active"
        assert {one.consumer.name for one in await gateway.consumers.all()} == {"ann", "bob"}
        one_of_a_model = {"gpt-4o": Limits(max_concurrent=2)}
        limits = Limits(tokens_per_minute=5)
        await change(gateway.consumers, caller.id, limits=limits, model_limits=one_of_a_model, access=Access(pin=True))
        await gateway.store.table("consumers").merge(caller.id, {"policy": {"name": "Ann"}})
        await gateway.later(51.0)
        changed = await gateway.who(ann)
        assert changed.name == "Ann"
        assert changed.limits == Limits(tokens_per_minute=5, requests_per_minute=7)
        assert changed.model_limits == {"gpt-4o": Limits(max_concurrent=2)}
        assert changed.access == Access(regions=frozenset(["eastus2"]), pin=True)  # not lifted
        await change(gateway.consumers, caller.id, revoked=gateway.store.now())
        await gateway.later(51.0)
        with pytest.raises(CallerNotAllowed, match="access of Ann was revoked"):
            await gateway.who(ann)
        assert (await gateway.row(caller.id)).state_at(gateway.store.now()) == "revoked"
        assert (await gateway.who(bob)).limits == rule.limits


async def test_a_deleted_identity_is_there_again_with_its_next_call(tenant: SimulatorProcess) -> None:
    token = tenant.token("ann", roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        caller = await gateway.who(token)
        await gateway.row(caller.id)
        version = await change(gateway.consumers, caller.id, limits=Limits(tokens_per_minute=5))
        await gateway.consumers.delete(version)
        assert await gateway.consumers.all() == []
        await gateway.later(51.0)
        await gateway.who(token)
        assert (await gateway.row(caller.id)).consumer.limits == Limits()


async def test_the_access_of_an_identity_ends_when_an_operator_said(tenant: SimulatorProcess) -> None:
    token = tenant.token("ann", roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        caller = await gateway.who(token)
        await gateway.row(caller.id)
        version = await gateway.consumers.read(caller.id)
        assert version is not None
        record = version.record
        await gateway.consumers.write(record.changed(record.consumer, gateway.store.now() + 60, 0.0), version)
        await gateway.later(51.0)
        await gateway.who(token)
        gateway.store.ahead = 61.0
        with pytest.raises(CallerNotAllowed, match="access of ann has expired"):
            await gateway.who(token)


async def test_a_revocation_holds_for_the_next_token_and_after_a_restart(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        caller = await gateway.who(tenant.token("ann", roles=["Gateway.Call"]))
        await gateway.row(caller.id)
        await change(gateway.consumers, caller.id, revoked=gateway.store.now())
        first = Authenticator(gateway.consumers, gateway.store.now)
        again = first.with_settings(gateway.settings)
        with pytest.raises(CallerNotAllowed, match="revoked"):
            await again.authenticate({"authorization": f"Bearer {tenant.token('ann', roles=['Gateway.Call'])}"})
        await first.close()


async def test_a_row_that_cannot_be_written_refuses_no_call_and_is_written_later(tenant: SimulatorProcess) -> None:
    token = tenant.token(roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        gateway.store.refuses_writes = True
        for _ in range(5):
            caller = await gateway.who(token)
            await gateway.later(1.0)
        assert await gateway.consumers.all() == []
        gateway.store.refuses_writes = False
        await gateway.later(30.0)
        await gateway.who(token)
        assert (await gateway.row(caller.id)).consumer.id == caller.id


async def test_a_table_out_of_reach_is_503_for_a_new_caller_and_nothing_for_a_known_one(
    tenant: SimulatorProcess,
) -> None:
    async with house(tenant) as gateway:
        ann, bob = (tenant.token(name, roles=["Gateway.Call"]) for name in ("ann", "bob"))
        await gateway.who(ann)
        gateway.store.is_dead = True
        await gateway.later(60.0)
        await gateway.who(ann)
        with pytest.raises(StoreUnavailable):
            await gateway.who(bob)


async def test_a_caller_without_a_rule_costs_the_table_nothing(tenant: SimulatorProcess) -> None:
    token = tenant.token("stranger")
    async with house(tenant) as gateway:
        for _ in range(3):
            with pytest.raises(CallerNotAllowed):
                await gateway.who(token)
        assert gateway.store.scans == []


async def test_identities_have_no_keys(tenant: SimulatorProcess) -> None:
    async with house(tenant) as gateway:
        caller = await gateway.who(tenant.token(roles=["Gateway.Call"]))
        record = await gateway.row(caller.id)
        for giving in (gateway.consumers.add_key(record), gateway.consumers.import_key(record, "0" * 64)):
            with pytest.raises(GatewayError, match="it has no keys"):
                await giving


async def test_other_settings_apply_from_the_next_call_on_and_keep_what_is_known(tenant: SimulatorProcess) -> None:
    token = tenant.token("ann", roles=["Gateway.Call"], groups=[GROUP])
    headers = {"authorization": f"Bearer {token}"}
    async with house(tenant) as gateway:
        await gateway.row((await gateway.who(token)).id)
        await gateway.later(3.0)
        reads, scans = tenant.key_reads(), len(gateway.store.scans)
        rules = [CallerRule(group=GROUP, team="research")]
        other = gateway.authenticator.with_settings(msgspec.structs.replace(gateway.settings, callers=rules))
        assert (await other.authenticate(headers)).team == "research"
        assert (await gateway.who(token)).team == ""
        elsewhere = other.with_settings(msgspec.structs.replace(gateway.settings, audiences=["api://elsewhere"]))
        with pytest.raises(InvalidApiKey, match="for the audience"):
            await elsewhere.authenticate(headers)
        with pytest.raises(InvalidApiKey, match="accepts no tokens"):
            await elsewhere.with_settings(None).authenticate(headers)
        assert (await elsewhere.with_settings(gateway.settings).authenticate(headers)).name == "ann"
        assert (tenant.key_reads(), len(gateway.store.scans)) == (reads, scans)


async def test_a_key_counts_before_a_token_and_a_token_in_another_header_is_refused(tenant: SimulatorProcess) -> None:
    token = tenant.token(roles=["Gateway.Call"])
    async with house(tenant) as gateway:
        consumer, key = await create_consumer(gateway.consumers, "team", models=None, limits=Limits())
        ask = gateway.authenticator.authenticate
        assert await ask({"authorization": f"Bearer {token}", "api-key": key}) == consumer
        assert (await ask({"authorization": f"Bearer {token}", "api-key": "placeholder"})).name == "someone"
        for name in ("api-key", "ocp-apim-subscription-key"):
            with pytest.raises(InvalidApiKey, match="as Authorization: Bearer TOKEN only"):
                await ask({name: token})
    with pytest.raises(InvalidApiKey, match="accepts no tokens"):
        await Authenticator(gateway.consumers, gateway.store.now).authenticate({"authorization": f"Bearer {token}"})


async def test_a_token_counts_before_a_key_that_somebody_imported(tenant: SimulatorProcess) -> None:
    placeholder = "not-needed-not-needed-123"
    good = tenant.token("ann", roles=["Gateway.Call"])
    stranger = tenant.token("bob", roles=[])
    elsewhere = tenant.token("ann", roles=["Gateway.Call"], audience="https://graph.microsoft.com")
    async with house(tenant) as gateway:
        owner, _ = await create_consumer(gateway.consumers, "owner", models=None, limits=Limits())
        record = await gateway.consumers.find(owner.id)
        assert record is not None
        await gateway.consumers.import_key(record, keys.digest_to_import(placeholder))
        ask = gateway.authenticator.authenticate
        for header in ("api-key", "ocp-apim-subscription-key", "x-api-key"):
            named = f"{placeholder};product=gold" if header == "ocp-apim-subscription-key" else placeholder
            caller = await ask({"authorization": f"Bearer {good}", header: named})
            assert (caller.name, caller.product) == ("ann", "")
            with pytest.raises(CallerNotAllowed):
                await ask({"authorization": f"Bearer {stranger}", header: named})
            caller = await ask({"authorization": f"Bearer {elsewhere}", header: named})
            assert caller.id == owner.id
        without = gateway.authenticator.with_settings(None)
        caller = await without.authenticate({"authorization": f"Bearer {good}", "api-key": placeholder})
        assert caller.id == owner.id
        with pytest.raises(InvalidApiKey, match="for the audience"):
            await ask({"authorization": f"Bearer {elsewhere}", "api-key": "placeholder"})


async def test_nothing_of_a_token_reaches_the_log(tenant: SimulatorProcess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good = tenant.token("ann", roles=["Gateway.Call"])
    bad = forged(good, signature=segment(b"x" * 256))
    async with house(tenant) as gateway:
        await gateway.who(good)
        await gateway.reason(bad)
    for part in (*good.split("."), *bad.split(".")):
        assert part not in caplog.text


async def test_keys_that_are_not_read_over_https_are_refused_for_an_authority_with_it(
    tenant: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(_: object, url: str) -> bytes:
        assert url.endswith("/.well-known/openid-configuration")
        return b'{"jwks_uri": "http://login.example/keys"}'

    monkeypatch.setattr("shared.auth.signing_keys._body", body)
    keys = SigningKeys()
    with pytest.raises(IdentityUnavailable):
        await keys.find(f"https://login.example/{TENANT_ID}", "x")
    assert "that is not https" in caplog.text
