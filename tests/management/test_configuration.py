"""The configuration over HTTP, by the routes, on tables in memory: which secrets it shows, and what it costs."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from shared.auth.operators import Operator
from shared.errors import ConfigurationRefused, InvalidRequest, RateLimitExceeded
from shared.management.audit import Audit, AuditRoutes
from shared.management.configuration import ConfigurationRoutes
from shared.management.routes import ManagementRequest, Paths
from tests.harness.memory_store import MemoryStore
from tests.versions.test_live import Process

ADMIN = Operator("admin", frozenset(("admin",)))
PATH = "/gateway/configuration"
SLACK = "https://hooks.slack.com/services/T000/B000/hush"
OTHER = "https://hooks.slack.com/services/T000/B000/hush-hush"
TEAMS = "https://contoso.webhook.office.com/hush?sig=hush"


def receivers(*urls: str) -> dict[str, Any]:
    return {"webhooks": [{"kind": "slack" if "slack" in url else "teams", "url": url} for url in urls]}


class Office:
    """The routes over one process, as an administrator calls them."""

    def __init__(self, process: Process, store: MemoryStore) -> None:
        self.process = process
        audit = Audit(store)
        routes = ConfigurationRoutes(process.live, process.changes, audit).routes()
        self._paths = Paths((*routes, *AuditRoutes(audit).routes()))

    async def ask(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        methods, parameters = self._paths.find(path)
        text = body if isinstance(body, bytes) else msgspec.json.encode(body or {})
        answer = await methods[method].handler(ManagementRequest(parameters, query or {}, {}, text, operator=ADMIN))
        assert b"hush" not in answer.body, path
        return msgspec.json.decode(answer.body)

    async def urls(self) -> list[str]:
        """As they are served."""
        await self.process.live.look()
        return [receiver.url or "" for receiver in self.process.served[-1].alerts.webhooks]


async def opened() -> Office:
    store = MemoryStore()
    return Office(await Process(store, {"alerts": receivers(SLACK)}).start(), store)


async def test_no_answer_shows_a_secret_url_but_its_host_and_that_it_changed() -> None:
    office = await opened()
    shown = (await office.ask("GET", PATH))["document"]["alerts"]["webhooks"]
    assert shown[0]["url"].startswith("https://hooks.slack.com/…")
    [change] = (await office.ask("POST", f"{PATH}/validate", {"alerts": receivers(OTHER)}))["changes"]
    assert change["before"] != change["after"]
    await office.ask("PUT", PATH, {"alerts": receivers(OTHER, TEAMS)})
    versions = (await office.ask("GET", f"{PATH}/versions"))["data"]
    masked = (await office.ask("GET", f"{PATH}/versions/{versions[0]['version']}"))["document"]
    await office.ask("PUT", PATH, {"heartbeat_seconds": 3})
    newest, first = (await office.ask("GET", "/gateway/audit"))["data"]
    assert newest["before"] == first["after"] == masked


async def test_the_audit_trail_of_older_versions_shows_no_secret_url() -> None:
    office = await opened()
    await office.ask("PUT", PATH, {"heartbeat_seconds": 3})
    table = office.process.store.table("audit" + next(iter(await office.process.store.names("audit")))[5:])
    [row] = [row async for row in table.scan("audit")]
    await table.merge("audit", {row.key: {"before": json.dumps({"alerts": receivers(SLACK)})}})
    [entry] = (await office.ask("GET", "/gateway/audit"))["data"]
    assert entry["before"]["alerts"]["webhooks"][0]["url"].startswith("https://hooks.slack.com/…")


async def test_a_document_that_was_read_is_written_back_with_its_urls() -> None:
    office = await opened()
    await office.ask("PUT", PATH, {"alerts": receivers(OTHER, TEAMS)})
    document = (await office.ask("GET", PATH))["document"]
    document["alerts"]["webhooks"].reverse()
    await office.ask("POST", f"{PATH}/validate", {"alerts": document["alerts"]})
    await office.ask("PUT", PATH, {"alerts": document["alerts"], "heartbeat_seconds": 3})
    assert await office.urls() == [TEAMS, OTHER]
    await office.ask("PUT", PATH, {})
    assert await office.urls() == [SLACK]


@pytest.mark.parametrize("section", ["alerts", "limits"])
async def test_a_masked_url_that_nothing_has_is_refused(section: str) -> None:
    office = await opened()
    url = "https://hooks.slack.com/…01234567"
    body = {"alerts": receivers(url), "limits": {"webhook": {"url": url, "secret_env": "S"}}}[section]
    with pytest.raises(ConfigurationRefused) as error:
        await office.ask("PUT", PATH, {section: body})
    assert any("is masked" in complaint.message for complaint in error.value.complaints)
    assert await office.urls() == [SLACK]


@pytest.mark.parametrize(
    "sections",
    [
        {"backends": [{"name": "a", "endpoint": "https://a", "region": "a", "models": {"url": "MASK"}}]},
        {"models": {"url": "MASK"}},
        {"limits": {"teams": {"a": {"token_quota_period": {"url": "MASK"}, "url": "MASK"}}}},
        {"limits": {"webhook": {"url": "MASK", "kind": {"url": "MASK"}}}},
        {"alerts": {"webhooks": [{"kind": {"url": "MASK"}, "url": "MASK", "events": [{"url": "MASK"}]}]}},
        {"alerts": {"webhooks": [{"kind": "slack", "url": "MASK", "secret_env": {"url": "MASK"}}], "url": "MASK"}},
        {"teams": {"a": {"owners": [{"url": "MASK"}]}}},
        {"url": "MASK"},
    ],
)
async def test_no_complaint_shows_the_url_behind_a_mask_wherever_that_is_written(sections: dict[str, Any]) -> None:
    office = await opened()
    mask = (await office.ask("GET", PATH))["document"]["alerts"]["webhooks"][0]["url"]
    body = json.dumps(sections).replace("MASK", mask).encode()
    with pytest.raises((ConfigurationRefused, InvalidRequest)) as error:
        await office.ask("POST", f"{PATH}/validate", body)
    assert "hush" not in repr(error.value) + error.value.message + repr(getattr(error.value, "complaints", ""))


async def test_an_operator_has_few_configurations_checked_at_a_time() -> None:
    office = await opened()
    checks = [office.ask("POST", f"{PATH}/validate", {"heartbeat_seconds": i}) for i in range(1, 9)]
    answers = await asyncio.gather(*checks, return_exceptions=True)
    assert [isinstance(one, RateLimitExceeded) for one in answers] == [False] * 4 + [True] * 4
    assert (await office.ask("POST", f"{PATH}/validate", {}))["valid"]


async def test_no_body_is_nested_so_deeply_that_a_handler_fails() -> None:
    for depth in (100, 5000):
        body = b'{"a": ' * depth + b"1" + b"}" * depth
        request = ManagementRequest({}, {}, {}, body, operator=ADMIN)
        with pytest.raises(InvalidRequest, match="levels deep"):
            request.object()
    assert ManagementRequest({}, {}, {}, b'{"a": [{"b": {}}]}').object() == {"a": [{"b": {}}]}
