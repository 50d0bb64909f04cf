"""Requests as the clients of docs/clients/ send them: answered and on record. Their pages name what exists."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from shared.anthropic import operations as messages
from shared.azure_openai import operations, sockets
from shared.config.parsing import parse
from tests.clients.requests import EMBEDDING, GATEWAY_MODEL, REQUESTS, ClientRequest
from tests.harness.patience import eventually
from tests.harness.sockets import Served, served

PAGES = sorted((Path(__file__).parents[2] / "docs" / "clients").glob("[a-z]*.md"))
MODELS = {GATEWAY_MODEL: "gpt-4o-mini", EMBEDDING: "text-embedding-3-small"}
NAMED = {"header": "X-OpenWebUI-User-Id", "plain": True}


async def sent(app: Served, session: aiohttp.ClientSession, key: str, request: ClientRequest) -> tuple[int, bytes]:
    value = f"Bearer {key}" if request.key_in == "authorization" else key
    headers = {"content-type": "application/json", **request.headers, request.key_in: value}
    url = app.url.replace("ws", "http", 1) + request.path
    async with session.request(request.method, url, data=request.data, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_every_request_is_answered_and_on_record() -> None:
    async with served(models_of=MODELS, end_users=NAMED) as app, aiohttp.ClientSession() as session:
        for request in REQUESTS:
            key = await app.key()
            status, body = await sent(app, session, key, request)
            assert status == 200, (request.client, body)
            rows = [row for row in app.rows() if row["s_key"] == key.split("_")[1]]
            assert [row["s_op"] for row in rows] == [request.operation], request.client
            [row] = rows
            assert (row["e_input"] > 0) == (not request.operation.startswith("models.")), request.client
            assert request.system == row.get("s_system", "")
            assert request.user in ("", row.get("s_user"))
        passed = app.simulator.log.last_received(None)
        assert passed is not None
        assert not [name for name, _ in passed.headers if name.lower().startswith(b"x-openwebui")]


async def test_a_stream_that_its_caller_leaves_is_told_to_the_backend_and_booked() -> None:
    """The answer to a program in C# that cancels its token; one that disposes of the response reads it to its end."""
    async with served(0.02, MODELS) as app, aiohttp.ClientSession() as session:
        key = await app.key()
        url, body = app.url.replace("ws", "http", 1), {**json.loads(REQUESTS[1].data or b""), "tools": []}
        body = {"model": GATEWAY_MODEL, "messages": body["messages"], "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"api-key": key}) as answer:
            await answer.content.readany()
            answer.close()
        await eventually(lambda: app.rows() and "e_ended" in app.rows()[0])
        assert app.rows()[0]["e_ended"] == "hung_up"


def paths(page: Path) -> list[tuple[str, str]]:
    """The methods and paths in the table of what a client calls."""
    table = page.read_text().partition("## What it calls")[2].partition("## ")[0]
    return re.findall(r"^\| `([A-Z]+) ([^`?]+)\S*` \|", table, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_to_type_what_is_called_and_what_was_tried(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    assert headings[0] == "What to type"
    assert headings[-2:] == ["What it calls", "What was tried"]
    assert f"]({page.name})" in (page.parent / "README.md").read_text()
    assert paths(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_paths_of_a_page_exist(page: Path) -> None:
    for method, path in paths(page):
        given = path.replace("{model}", "m").replace("{id}", "i")
        if method == "WEBSOCKET":
            assert sockets.opened(given, "model=m", {})
        elif given.startswith("/gateway/"):
            assert f"`{path}`" in (page.parents[1] / "api.md").read_text() or "{id}" in path
        elif given.startswith("/v1/messages"):
            assert messages.match(method, given)
        elif given == "/":
            assert method == "HEAD"
        else:
            assert operations.match(method, given)


def test_the_requests_are_those_of_the_pages() -> None:
    called = {(page.stem, *call) for page in PAGES for call in paths(page)}
    for request in REQUESTS:
        path = request.path.partition("?")[0].replace(f"/{GATEWAY_MODEL}", "/{model}")
        assert (request.page, request.method, path) in called, request.client


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_configuration_on_a_page_is_configuration(page: Path) -> None:
    """Blocks of YAML that are the gateway's own: those with a section of its document."""
    base: dict[str, Any] = {
        "backends": [{"name": "b", "endpoint": "https://b.openai.azure.com", "region": "r", "models": {"m": "m"}}]
    }
    for block in re.findall(r"^```yaml$(.*?)^```$", page.read_text(), re.M | re.S):
        document = yaml.safe_load(block)
        if {"end_users", "limits", "models"} & set(document) and "schema" not in document:
            parse(json.dumps({**base, **document}), "page")
