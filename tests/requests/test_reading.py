"""Bodies wait behind limits, and large ones are parsed while other calls go on."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from shared.azure_openai.outline import LARGE
from shared.errors import GatewayBusy, InvalidRequest, RateLimitExceeded
from shared.requests._deadline import BodyDeadline
from shared.requests.buffers import Buffers
from shared.requests.head import content_length
from tests.harness import in_process
from tests.harness.gateway_process import cli
from tests.harness.system import System, chat_body, eventually

FORM = "multipart/form-data; boundary=b"
MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@contextmanager
def half_sent(system: System, key: str, data: bytes = b'{"m') -> Iterator[socket.socket]:
    """A caller who has sent the head of a request, and the first chunk of its body."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
        f"authorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(system.gateway.address, 20) as caller:
        caller.sendall(head.encode() + chunk(data))
        yield caller


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def status_of(caller: socket.socket) -> int:
    return int(caller.recv(65_536)[9:12])


def key_with(system: System, *options: str) -> str:
    made = cli(system.gateway.environment, "keys", "create", f"limited {uuid.uuid4()}", *options, "--json")
    key: str = made["key"]
    return key


def denials(system: System, key: str) -> int:
    """The calls of this key that were refused for its limits, by the log."""
    consumer = key.split("_")[1]
    return sum('"limit_exceeded"' in line and consumer in line for line in system.gateway.shown())


def test_a_call_over_its_limit_is_refused_before_its_body_is_waited_for(gateway: System) -> None:
    key = key_with(gateway, "--requests-per-minute", "1")
    with ExitStack() as callers:
        opened = [callers.enter_context(half_sent(gateway, key)) for _ in range(4)]
        eventually(lambda: denials(gateway, key) == 3)
        if gateway.edge == "uvicorn":  # the Functions host passes no answer on before the body has ended
            for caller in opened:
                caller.setblocking(False)
            eventually(lambda: sum(refused(caller) for caller in opened) == 3)


def refused(caller: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return caller.recv(65_536, socket.MSG_PEEK).startswith(b"HTTP/1.1 429")
    return False


def test_a_slot_is_taken_while_the_body_arrives_and_returned_if_the_caller_leaves(gateway: System) -> None:
    key = key_with(gateway, "--max-concurrent", "1")
    with half_sent(gateway, key):
        time.sleep(2.0)  # else the only slot may be taken by the next call, and the half-sent one refused
        eventually(lambda: gateway.post("/v1/chat/completions", chat_body(), key=key).status == 429)
    eventually(lambda: gateway.post("/v1/chat/completions", chat_body(), key=key).status == 200)


def test_a_request_comes_back_if_its_body_is_invalid(gateway: System) -> None:
    key = key_with(gateway, "--requests-per-minute", "1")
    for data in (b"[", json.dumps(chat_body()).encode()):
        with half_sent(gateway, key, data[:1]) as caller:
            time.sleep(0.3)
            caller.sendall(chunk(data[1:]) if data[1:] else b"")
            caller.sendall(chunk(b""))
            assert status_of(caller) == (200 if data[1:] else 400)


def test_a_body_that_arrives_late_counts_once(gateway: System) -> None:
    key = key_with(gateway, "--requests-per-minute", "2", "--tokens-per-minute", "100000", "--max-concurrent", "5")
    data = json.dumps(chat_body()).encode()
    for _ in range(2):
        with half_sent(gateway, key, data[:5]) as caller:
            time.sleep(0.3)
            caller.sendall(chunk(data[5:]) + chunk(b""))
            assert status_of(caller) == 200
    assert gateway.post("/v1/chat/completions", chat_body(), key=key).status == 429


def test_unfinished_bodies_of_one_key_take_no_more_than_its_share(impatient: System) -> None:
    """Four times `max_request_bytes`, which is 1 MB there."""
    data = json.dumps(chat_body(user="x" * 900_000)).encode()
    greedy, other = impatient.make_key("greedy"), impatient.make_key("other")
    with ExitStack() as callers:
        for _ in range(5):  # of which four are held
            callers.enter_context(half_sent(impatient, greedy, data[:-1]))
        time.sleep(1)
        eventually(lambda: impatient.post("/v1/chat/completions", data, key=greedy).status == 429)
        assert impatient.post("/v1/chat/completions", data, key=other).status == 200
    eventually(lambda: impatient.post("/v1/chat/completions", data, key=greedy).status == 200)


def test_a_refused_body_is_not_kept(gateway: System) -> None:
    """Not even by the error that refuses it."""
    process = psutil.Process(gateway.gateway.pid)
    before = process.memory_info().rss
    with ExitStack() as callers:
        for _ in range(10):
            caller = callers.enter_context(half_sent(gateway, gateway.key, b'["'))
            with suppress(ConnectionError):
                for data in (b"x" * 10_000_000, b'",', b"[" * 1000):
                    caller.sendall(chunk(data))
        eventually(lambda: process.memory_info().rss < before + 50_000_000)


def test_a_large_honest_body_is_answered(gateway: System) -> None:
    user = '\\"{[,é' * LARGE  # not in the prompt, whose length is limited
    assert gateway.post("/v1/chat/completions", chat_body(user=user)).status == 200


SLOW = {
    "JSON": ("/v1/chat/completions", "application/json", [*[b" "] * 10, b'{"model":"m","messages":[]}']),
    "a form": ("/v1/audio/transcriptions", FORM, [MODEL, FILE, *[bytes(1000)] * 10, b"\r\n--b--\r\n"]),
    "a form with its model last": (
        "/v1/audio/transcriptions",
        FORM,
        [FILE, *[bytes(1000)] * 10, b"\r\n", MODEL, b"--b--\r\n"],
    ),
}


@pytest.mark.parametrize("name", SLOW)
async def test_a_body_that_takes_longer_than_a_call_may_last_is_served(name: str) -> None:
    """The clock of a call starts when its body is there."""
    path, content_type, pieces = SLOW[name]

    async def serving(exchange: in_process.Exchange) -> None:
        exchange.answer(200, in_process.chat())

    tables = in_process.Tables()
    async with (
        in_process.backend("a", {"m": "m"}, serving) as a,
        in_process.gateway(tables, [a], timeouts={"total": 0.5, "request_body": 30}) as application,
    ):
        key = await in_process.key(tables)
        sent = {"content-type": content_type, "content-length": str(sum(map(len, pieces)))}
        began = time.monotonic()
        reply = await in_process.call(application, key, path, pieces, headers=sent, pause=0.08)
        assert time.monotonic() - began > 0.8
    assert reply.status == 200, reply.body


async def longest_turn(body: bytes, serving: in_process.Answering, clock: Callable[[], float]) -> float:
    """The longest time by a clock of CPU, in seconds, that another task waits while a large response is asked for."""
    pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    tables, longest = in_process.Tables(), 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = clock()
            await asyncio.sleep(0.001)
            longest = max(longest, clock() - began)

    async with in_process.backend("a", {"m": "m"}, serving) as a, in_process.gateway(tables, [a]) as application:
        key = await in_process.key(tables)
        turning = asyncio.ensure_future(others())
        sent = {"content-length": str(len(body))}
        reply = await in_process.call(application, key, "/v1/responses", pieces, headers=sent)
        turning.cancel()
    assert reply.status == 200, reply.body
    return longest


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_a_long_history_of_an_agent_is_served_while_other_calls_go_on() -> None:
    async def serving(exchange: in_process.Exchange) -> None:
        exchange.answer(200, {"id": "resp_1", "object": "response", "status": "completed", "output": []})

    content = [{"type": "output_text", "text": "word " * 60}]
    items = [{"id": f"msg_{i}", "type": "message", "role": "assistant", "content": content} for i in range(16_000)]
    body = json.dumps({"model": "m", "store": False, "input": items}).encode()
    silence = await longest_turn(body, serving, time.process_time)  # of all threads: one may keep the interpreter
    assert silence < 1.0  # seconds of CPU, which other tests on the machine do not lengthen


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_the_tools_of_a_large_body_are_looked_at_while_other_calls_go_on() -> None:
    async def serving(exchange: in_process.Exchange) -> None:
        exchange.answer(200, {"id": "resp_1", "object": "response", "status": "completed", "output": []})

    items = [{"role": "user", "content": "\x01A" * 2_000_000}, {"type": "additional_tools", "tools": []}]
    body = json.dumps({"model": "m", "store": False, "input": items}).encode()
    longest = await longest_turn(body, serving, time.thread_time)  # of the event loop alone
    assert longest < 0.1  # on the loop itself: 0.2 s


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/transcriptions"])
def test_a_length_of_thousands_of_digits_is_a_bad_request(gateway: System, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {gateway.key}\r\n"
    head += f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {'9' * 5000}\r\n\r\n"
    with socket.create_connection(gateway.gateway.address, 20) as caller:
        caller.sendall(head.encode())
        assert status_of(caller) == 400


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 19])
def test_no_length_is_read_that_no_body_has(text: str) -> None:
    with pytest.raises(InvalidRequest):
        content_length({"content-length": text})
    assert content_length({"content-length": "12"}) == 12
    assert content_length({"content-length": "١٢"}) is content_length({}) is None


def test_the_bytes_of_a_consumer_and_of_the_process_are_bounded() -> None:
    async def bounded() -> None:
        buffers = Buffers(1000)
        first, second, third = buffers.open("ann"), buffers.open("ann"), buffers.open("bob")
        first.hold(300)
        with pytest.raises(RateLimitExceeded):
            second.hold(201)
        second.hold(200)
        third.hold(499)
        with pytest.raises(GatewayBusy):
            buffers.open("cid").hold(2)
        first.release()
        first.release()
        buffers.open("cid").hold(2)
        second.hold(299)

    asyncio.run(bounded())


async def test_nobody_is_asked_for_a_body_that_is_there_and_once_for_one_that_is_not() -> None:
    asked = []

    async def ask() -> None:
        asked.append(1)

    async def there() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}"}

    async def later() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"{}"}

    deadline = BodyDeadline(5, ask)
    await deadline.receive(there, 0)
    assert not asked
    for _ in range(2):
        assert (await deadline.receive(later, 0))["body"] == b"{}"
    assert asked == [1]
