"""A caller plants an object of another caller's at every place where a body can name one: none is ever reached."""

import asyncio
import json
import re
from typing import Any

import pytest

from shared import bootstrap
from shared.affinity.directory import ObjectDirectory
from shared.azure_openai.batch_lines import BatchSize
from shared.azure_openai.operations import OPERATIONS
from shared.azure_openai.reference_paths import REQUESTS
from shared.azure_openai.references import ITEMS, KINDS
from shared.config.document import Configuration
from shared.config.environment import Storage
from shared.types import Operation, Reference
from tests.azure_openai.test_reference_paths import ID_LIKE, POSTS, excused
from tests.harness import client_types
from tests.harness.gateway_process import Answer
from tests.harness.reference_bodies import places, planted
from tests.harness.system import System

BACKEND = "sweden"
MODELS = {"images": "gpt-image-1", "realtime": "gpt-realtime", "realtimeapi": "gpt-realtime"}
BY_NAME = {operation.name: operation for operation in OPERATIONS}
# Those of WebSockets are planted in tests/sockets, those of Anthropic's API in tests/anthropic.
NAMES = [name for name in REQUESTS if name in BY_NAME and name != "realtime"]


def record(system: System, key: str, word: str) -> None:
    """Put one object of every kind on record for a key, as if the backend had made it. Their ids are by kind."""

    async def write() -> None:
        async with bootstrap.open_store(Storage(connection_string=system.storage)) as store:
            directory = ObjectDirectory(store, Configuration(backends=[]), lambda _: True, never)
            owner = key.split("_")[1]
            objects = [Reference(kind, id_of(kind, word)) for kind in KINDS.keys() - ITEMS]
            await asyncio.gather(*directory.claims.record(owner, BACKEND, objects, lines=BatchSize()))
            await asyncio.gather(*directory.claims.record_items(owner, BACKEND, [id_of("item", word)]))

    async def never(*_: object) -> bool:
        return False

    asyncio.run(write())


def id_of(kind: str, word: str) -> str:
    return f"{kind}-{word}"


def send(system: System, key: str, name: str, body: dict[str, Any], own: str) -> Answer:
    """A call of an operation with a body and, in its path, objects of the caller's own."""
    operation = BY_NAME[name]
    path = "/v1/" + re.sub(r"\{(\w+)\}", lambda match: id_of(match[1], own), operation.path)
    if operation.body == "sdp":
        session = {"type": "realtime", "model": "gpt-realtime", **body}
        parts = {"sdp": "v=0\r\ns=-\r\n", "session": json.dumps(session)}
        text = "".join(
            f'--b\r\ncontent-disposition: form-data; name="{part}"\r\n\r\n{value}\r\n' for part, value in parts.items()
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return system.post(path, f"{text}--b--\r\n".encode(), headers, key=key)
    if operation.model in ("body", "form"):
        body = {"model": MODELS.get(name.partition(".")[0], "gpt-4o"), **body}
    if name == "evals.runs.create" and isinstance(body.get("data_source"), dict):
        source = {"type": "file_id", **body["data_source"].get("source", {})}
        body["data_source"] = {**body["data_source"], "source": source}
    if name == "realtime.client_secrets":
        body["session"] = {"type": "realtime", "model": "gpt-realtime", **body["session"]}
        del body["model"]
    return system.post(path, body, key=key)


@pytest.fixture(scope="module")
def keys(patient_system: System) -> tuple[str, str, str]:
    """The keys of an owner and of a stranger, and a word in the ids of their objects."""
    word = patient_system.edge
    owner, stranger = patient_system.make_key("an owner"), patient_system.make_key("a stranger")
    record(patient_system, owner, f"owners-{word}")
    record(patient_system, stranger, f"strangers-{word}")
    return owner, stranger, word


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_object_is_not_found_at_any_place(gateway: System, keys: tuple[str, str, str], name: str) -> None:
    _, stranger, word = keys
    for path, kind in places(REQUESTS[name]):
        if kind == "sealed":
            continue  # nobody's object: whoever brings such content may try it, see test_affinity.py
        for in_lists in (False, True):
            body = planted(path, id_of(kind, f"owners-{word}"), in_lists=in_lists)
            if name == "realtime.client_secrets" and in_lists:
                continue  # its session is an object, or the model in it is not found
            refused = send(gateway, stranger, name, body, f"strangers-{word}")
            assert refused.status == 404, (path, refused.body)
            message = f"There is no {kind.replace('_', ' ')} with the id '{kind}-owners-{word}'. ("
            assert refused.error()["message"].startswith(message)
    assert gateway.simulator.log()["requests"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_owner_reaches_the_backend_with_the_same_bodies(
    gateway: System, keys: tuple[str, str, str], name: str
) -> None:
    owner, _, word = keys
    for path, kind in places(REQUESTS[name]):
        body = planted(path, id_of(kind, f"owners-{word}"))
        before = len(gateway.simulator.log()["requests"])
        send(gateway, owner, name, body, f"owners-{word}")
        assert len(gateway.simulator.log()["requests"]) == before + 1, path


def schema_strings(operation: Operation) -> list[tuple[tuple[str, ...], str]]:
    """The places of strings in the body of an operation, each with a `type` of the object that holds it, or "": every
    type where a key may name an object, else one."""
    every: dict[tuple[tuple[str, ...], str], None] = {}
    for body in client_types.parameters_of(operation):
        for path, types in client_types.strings(body):
            for one in sorted(types or {""})[: None if names_object(operation, path) else 1]:
                every[path, one] = None
    return list(every)


def names_object(operation: Operation, path: tuple[str, ...]) -> bool:
    key = next(key for key in reversed(path) if key != "*")
    return bool(ID_LIKE.search(key)) and not excused(operation, path)


@pytest.mark.parametrize("operation", [one for one in POSTS if one.body == "json"], ids=lambda one: one.name)
def test_a_foreign_id_in_any_string_of_the_schema_reaches_no_backend_as_an_object(
    gateway: System, keys: tuple[str, str, str], operation: Operation
) -> None:
    _, stranger, word = keys
    foreign = id_of("file", f"owners-{word}")
    elsewhere = []
    for path, type_ in schema_strings(operation):
        if path in (("model",), ("session", "model")):
            continue
        body = planted(path, foreign, {"type": type_} if type_ and path[-1] != "type" else None)
        if names_object(operation, path):
            answer = send(gateway, stranger, operation.name, body, f"strangers-{word}")
            assert answer.status in (400, 403, 404), (path, type_, answer.body)
        else:
            elsewhere.append(body)
    assert reached(gateway) == 0
    for body in elsewhere[::15]:  # each is a call with a row of its own: all of them take minutes
        assert send(gateway, stranger, operation.name, body, f"strangers-{word}").status < 500, body


def reached(gateway: System) -> int:
    """The number of requests that have reached a backend."""
    return sum(region["requests"] for region in gateway.simulator.log(summary=True)["totals"].values())
