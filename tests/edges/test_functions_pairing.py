"""The pairing of invocations and requests: both halves meet, or both end in time, and nothing is kept."""

import asyncio
import importlib
import importlib.metadata
import uuid
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from shared.edges.functions_pairing import HEADER, KNOWN, Pairing, Unpaired
from tests.harness.gateway_process import ROOT

SECONDS = 0.1


def request(*ids: str) -> Request:
    return Request({"type": "http", "headers": [(HEADER.encode(), number.encode()) for number in ids]})


def new_id() -> str:
    return str(uuid.uuid4())


async def refused(waiting: Any) -> float:
    """The seconds until it was refused."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(Unpaired):
        await waiting
    return loop.time() - started


@pytest.mark.parametrize("first", ["invocation", "request"])
async def test_both_halves_meet_in_either_order_and_nothing_is_kept(first: str) -> None:
    pairing, number = Pairing(SECONDS * 10), new_id()
    halves: dict[str, Callable[[], Any]] = {
        "invocation": lambda: asyncio.ensure_future(pairing.get_http_request_async(number)),
        "request": lambda: asyncio.ensure_future(pairing.respond(request(number))),
    }
    begun: dict[str, Any] = {first: halves.pop(first)()}
    await asyncio.sleep(0.02)
    (other, begin), *_ = halves.items()
    begun[other] = begin()
    taken = await begun["invocation"]
    assert taken.headers[HEADER] == number
    await asyncio.sleep(SECONDS * 11)  # a handler may take longer than the pairing
    response = Response("whole")
    pairing.set_http_response(number, response)
    assert await begun["request"] is response
    assert len(pairing) == 0


def test_a_half_waits_ten_seconds_for_the_other() -> None:
    assert Pairing()._seconds == 10.0


async def test_an_invocation_without_a_request_ends_in_time() -> None:
    pairing, number = Pairing(SECONDS), new_id()
    assert SECONDS * 0.9 < await refused(pairing.get_http_request_async(number)) < SECONDS + 10
    pairing.set_http_response(number, Unpaired())  # as the worker reports its end
    assert len(pairing) == 0


async def test_a_request_without_an_invocation_ends_in_time() -> None:
    pairing = Pairing(SECONDS)
    assert SECONDS * 0.9 < await refused(pairing.respond(request(new_id()))) < SECONDS + 10
    assert len(pairing) == 0


@pytest.mark.parametrize(
    "ids",
    [[], [""], ["0"], [new_id().upper()], [new_id() + "0"], [new_id(), new_id()], [f"{new_id()}, {new_id()}"]],
    ids=["none", "empty", "short", "upper", "long", "repeated", "joined"],
)
async def test_a_request_that_names_no_one_invocation_is_refused_at_once(ids: Sequence[str]) -> None:
    pairing = Pairing(60)
    assert await refused(pairing.respond(request(*ids))) < 30
    assert len(pairing) == 0


async def test_a_second_request_for_an_invocation_is_refused_and_the_first_goes_on() -> None:
    pairing, number = Pairing(60), new_id()
    first = asyncio.ensure_future(pairing.respond(request(number)))
    await asyncio.sleep(0)
    assert await refused(pairing.respond(request(number))) < 30
    await pairing.get_http_request_async(number)
    assert await refused(pairing.respond(request(number))) < 30
    pairing.set_http_response(number, Response("first"))
    assert (await first).body == b"first"
    assert len(pairing) == 0


@pytest.mark.parametrize("waits", [True, False])
async def test_an_invocation_whose_request_is_no_http_ends_at_once(waits: bool) -> None:
    pairing, number = Pairing(SECONDS * 10), new_id()
    waiting: Any = pairing.get_http_request_async(number)
    if waits:
        waiting = asyncio.ensure_future(waiting)
        await asyncio.sleep(0.01)
    pairing.refuse(number)
    assert await refused(waiting) < SECONDS * 9
    pairing.refuse(new_id())  # its invocation never comes
    await asyncio.sleep(SECONDS * 11)
    assert len(pairing) == 0


async def test_an_exception_of_the_function_reaches_the_request() -> None:
    pairing, number = Pairing(SECONDS), new_id()
    responding = asyncio.ensure_future(pairing.respond(request(number)))
    await pairing.get_http_request_async(number)
    pairing.set_http_response(number, KeyError("of the function"))
    with pytest.raises(KeyError, match="of the function"):
        await responding
    assert len(pairing) == 0


@pytest.fixture
def coordinator() -> Iterator[Any]:
    """Of the installed library, as it was."""
    original = importlib.import_module("azure_functions_runtime.http_v2").http_coordinator
    before = dict(vars(original))
    yield original
    vars(original).clear()
    vars(original).update(before)


def handler_beside(coordinator: Any) -> Any:
    """A handler whose module has this coordinator, as the worker's has."""
    module: dict[str, Any] = {"http_coordinator": coordinator}
    exec("async def handler(request): ...", module)  # noqa: S102 - a function with globals of its own
    return module["handler"]


async def test_the_coordinator_of_the_installed_library_is_replaced(coordinator: Any) -> None:
    """Fails when a newer library changes what is relied upon; the functions host's tests run both."""
    pairing, number = Pairing(SECONDS), new_id()
    handle_event = importlib.import_module("azure_functions_runtime.handle_event")
    assert handle_event.http_coordinator is coordinator
    assert pairing.replaces(handler_beside(coordinator))
    responding = asyncio.ensure_future(pairing.respond(request(number)))
    await coordinator.get_http_request_async(number)
    coordinator.set_http_response(number, Response("mine"))
    assert (await responding).body == b"mine"
    assert coordinator._context_references == {}


def test_the_library_is_pinned_as_known() -> None:
    name, version = KNOWN.split()
    assert importlib.metadata.version(name) == version
    assert f"{name}=={version} " in (ROOT / "requirements.txt").read_text()  # its hashes follow


@pytest.mark.parametrize(
    "other",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(get_http_request_async=lambda invoc_id: None, set_http_response=lambda a, b: None),
        SimpleNamespace(get_http_request_async=lambda invoc_id: 0, set_http_response=lambda invoc_id, http_response: 0),
    ],
    ids=["no coordinator", "other methods", "other parameters", "not a coroutine"],
)
def test_a_library_that_is_not_as_known_is_left_as_it_is(other: Any) -> None:
    before = dict(vars(other)) if other is not None else {}
    assert not Pairing().replaces(handler_beside(other))
    assert other is None or vars(other) == before
