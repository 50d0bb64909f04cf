"""Hostile and careless callers: the bounds of a connection, and what ends it."""

import asyncio
import base64
import contextlib
import json
import logging
import os
import select
import socket
import struct
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from shared.edges import websocket_protocol, write_timer
from shared.sockets import connection as connections
from shared.usage import unsaid
from tests.harness.patience import PATIENCE, eventually
from tests.harness.sockets import Served, served

CREATE = {"type": "response.create", "model": "mini", "input": "x"}


def opened(app: Served, key: str, path: str = "/v1/responses", **more: Any) -> connect:
    return connect(app.url + path, additional_headers={"authorization": f"Bearer {key}"}, compression=None, **more)


async def event(connection: ClientConnection, *kinds: str) -> Any:
    """The next event, or the next of these kinds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            message = json.loads(await connection.recv())
            if not kinds or message["type"] in kinds:
                return message


async def close_code(connection: ClientConnection) -> int:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await connection.recv()
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


async def raw(
    app: Served, key: str, path: str = "/v1/responses", headers: str = "", receives: int = 0
) -> socket.socket:
    """An upgraded connection on a plain socket, for frames that no client sends. `receives`: bytes that its kernel
    keeps for it."""
    host, port = app.url.removeprefix("ws://").split(":")
    plain = socket.socket()
    if receives:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, (host, int(port)))
    nonce = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET {path} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
    )
    head += f"sec-websocket-key: {nonce}\r\nauthorization: Bearer {key}\r\n{headers}\r\n"
    await loop.sock_sendall(plain, head.encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += await loop.sock_recv(plain, 65_536)
    assert received.startswith(b"HTTP/1.1 101"), received
    return plain


def open_protocols(app: Served) -> list[websocket_protocol.Protocol]:
    """The server's side of the connections."""
    return [one for one in app.server.server_state.connections if isinstance(one, websocket_protocol.Protocol)]


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """A masked frame whose mask is zero."""
    size = len(payload)
    if size > 65_535:
        length = b"\xff" + struct.pack("!Q", size)
    else:
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([(0x80 if fin else 0) | opcode]) + length + b"\x00" * 4 + payload


async def ended_by(plain: socket.socket) -> int:
    """The code of the close frame that the server sends."""
    received, loop = b"", asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        while chunk := await loop.sock_recv(plain, 65_536):
            received += chunk
    plain.close()
    assert received[0] == 0x88, received[:80]
    return int.from_bytes(received[2:4])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(b"\xff\xfe{}")], 1007),
        ([frame(b"\xff", fin=False), frame(b"x", 0)], 1007),
        ([bytes([0xF1, 0x80, 0, 0, 0, 0])], 1002),  # reserved bits
        ([bytes([0x81, 0x01, 0x61])], 1002),  # not masked
        ([frame(b"x", 0)], 1002),  # a continuation of nothing
        ([bytes([0x81, 0xFF]) + struct.pack("!Q", 17 * 1024 * 1024) + b"\x00" * 4], 1009),
        ([frame(b" ", fin=False), *([frame(b" ", 0, fin=False)] * 4096)], 1009),
    ],
)
async def test_frames_that_are_not_valid_end_the_connection(
    frames: list[bytes], code: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_protocol, "_LINGER", 0.1)
    async with served() as app:
        plain = await raw(app, await app.key())
        await asyncio.get_running_loop().sock_sendall(plain, b"".join(frames))
        assert await ended_by(plain) == code
        key = await app.key()
        async with opened(app, key) as connection:
            await connection.send(json.dumps(CREATE))
            await event(connection, "response.completed")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("nonsense", "not valid JSON"),
        ("[]", "not an object"),
        ("{}", "no `type`"),
        ('{"type": 1}', "the name of an event"),
        ('{"type": "x", "type": "response.create"}', "duplicate key"),
        ('{"type": "x", "Type": "response.create"}', "differ in case only"),
        ('{"type": "response.create"}', "`model` is missing"),
        ('{"type": "response.cancel"}', "Expected response.create as the first event"),
        ('{"type": "response.create", "model": "mini", "input": "x", "background": true}', "background"),
        ('{"type": "response.create", "model": 7}', "`model` has the wrong type"),
        ("[" * 100_000, ""),
    ],
)
async def test_an_event_that_is_not_valid_is_answered_and_ends_nothing(message: str, said: str) -> None:
    async with served() as app, opened(app, await app.key()) as connection:
        await connection.send(message)
        error = await event(connection, "error")
        assert (error["status"], error["error"]["type"]) == (400, "invalid_request_error")
        assert said in error["error"]["message"]
        await connection.send(json.dumps(CREATE))
        await event(connection, "response.completed")
        assert len(app.rows()) == 1


async def test_realtime_names_the_event_that_an_error_answers() -> None:
    async with served() as app, opened(app, await app.key(), "/v1/realtime?model=talk") as connection:
        await event(connection, "session.created")
        prompt = {"id": "pmpt_1", "variables": {"x": {"type": "input_file", "file_id": "file-of-somebody"}}}
        await connection.send(json.dumps({"type": "session.update", "event_id": "mine", "session": {"prompt": prompt}}))
        error = await event(connection)
        assert (error["type"], error["error"]["event_id"], error["error"]["code"]) == ("error", "mine", "not_found")
        await connection.send(
            json.dumps({"type": "no.such.event", "event_id": "its"})
        )  # passes: the backend refuses it
        error = await event(connection)
        assert (error["error"]["event_id"], error["error"]["code"]) == ("its", "invalid_value")


async def test_a_session_with_a_connector_needs_the_operators_permission() -> None:
    session = {"tools": [{"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"}]}
    async with served() as app, opened(app, await app.key(), "/v1/realtime?model=talk") as connection:
        await event(connection, "session.created")
        await connection.send(json.dumps({"type": "session.update", "event_id": "mine", "session": session}))
        error = (await event(connection, "error"))["error"]
        assert (error["event_id"], error["code"]) == ("mine", "whole_account_not_allowed")
        assert "session.tools[0]" in error["message"]


async def test_messages_pass_byte_for_byte() -> None:
    async with served() as app, opened(app, await app.key(), "/v1/realtime?model=talk") as connection:
        await event(connection, "session.created")
        strange = '{ "type" : "session.update",\n\t"session": {"instructions": "\\u00e9\u00e9 \U0001f600", "x": 1.50}}'
        await connection.send(strange)
        text = await connection.recv()
        assert isinstance(text, str)
        assert json.loads(text)["session"]["instructions"] == "\u00e9\u00e9 \U0001f600"
        assert json.loads(text)["session"]["x"] == 1.5
        await connection.send([strange[:20], strange[20:]])  # in fragments
        await connection.recv()


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/chat/completions", "/openai/responses?api-version=2025-04-01-preview"]
)
async def test_other_paths_take_no_websocket(path: str) -> None:
    async with served() as app:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(app, await app.key(), path):
                pass
        assert refused.value.response.status_code == 404
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "unknown_path"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "missing_model"),
        ("?intent=transcription", 400, "missing_model"),
        ("?model=talk&deployment=other", 400, "invalid_request"),
        ("?model=nonsense", 404, "model_not_found"),
        ("?call_id=rtc_unknown", 404, "not_found"),
    ],
)
async def test_a_realtime_connection_needs_a_model_of_the_gateway(query: str, status: int, code: str) -> None:
    async with served() as app:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(app, await app.key(), f"/v1/realtime{query}"):
                pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == code


@pytest.mark.parametrize(
    "wrong",
    ["sec-websocket-version: 12\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13", "x: y"],
)
async def test_an_upgrade_that_is_not_valid_is_refused_as_http(wrong: str) -> None:
    async with served() as app:
        host, port = app.url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n{wrong}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"The upgrade to a WebSocket is not valid" in answer
        writer.close()


async def test_a_key_may_come_as_a_subprotocol_and_is_not_sent_back() -> None:
    async with served() as app:
        key = await app.key()
        offered: Any = ["realtime", f"openai-insecure-api-key.{key}", "openai-beta.realtime-v1"]
        async with connect(f"{app.url}/v1/realtime?model=talk", subprotocols=offered, compression=None) as connection:
            assert connection.subprotocol == "realtime"
            await event(connection, "session.created")
        entry = app.simulator.log.last_received(None)
        assert entry is not None
        assert (b"openai-beta", b"realtime=v1") in [(name.lower(), value) for name, value in entry.headers]
        assert not any(key.encode() in value for _, value in entry.headers)


async def test_a_long_token_in_the_head_is_read() -> None:
    """The library's own reading of a head takes lines of 8 kB at most; tokens of Entra ID may be longer."""
    async with served() as app:
        plain = await raw(app, await app.key(), headers=f"x-long: {'a' * 20_000}\r\n")
        plain.close()


async def test_frames_before_the_upgrade_is_accepted_are_bounded() -> None:
    async with served() as app:
        key = await app.key()
        loop = asyncio.get_running_loop()
        host, port = app.url.removeprefix("ws://").split(":")
        plain = socket.socket()
        plain.setblocking(False)
        await loop.sock_connect(plain, (host, int(port)))
        head = "GET /v1/responses HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        head += "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        both = f"{head}authorization: Bearer {key}\r\n\r\n".encode() + frame(json.dumps(CREATE).encode())
        await loop.sock_sendall(plain, both)
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b"response.completed" not in received:
                received += await loop.sock_recv(plain, 65_536)
        plain.close()


async def test_ten_thousand_messages_at_once_take_no_memory() -> None:
    async with served() as app:
        plain = await raw(app, await app.key())
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(plain, frame(b"") * 100_000))
        most = 0
        for _ in range(20):
            await asyncio.sleep(0.01)
            most = max([most, *(protocol.queue.qsize() for protocol in open_protocols(app))])
        assert 0 < most < 4000
        sending.cancel()
        plain.close()


async def test_a_caller_that_reads_nothing_holds_no_memory() -> None:
    async with served() as app:
        loop = asyncio.get_running_loop()
        plain = await raw(app, await app.key(), "/v1/realtime?model=talk")
        session = {"type": "session.update", "session": {"instructions": "x" * 200_000}}
        message = frame(json.dumps(session).encode())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                for _ in range(1000):
                    await loop.sock_sendall(plain, message)  # 200 MB, and as much comes back
        [protocol] = open_protocols(app)
        assert protocol.transport.get_write_buffer_size() < 1_000_000
        assert len(protocol._unread) + len(protocol.conn.reader.buffer) < 1_000_000
        plain.close()


async def test_a_caller_that_reads_nothing_loses_its_connection_and_its_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_timer, "SECONDS", 0.5)
    async with served() as app:
        plain = await raw(app, await app.key(), "/v1/realtime?model=talk", receives=4096)
        [protocol] = open_protocols(app)
        session = {"type": "session.update", "session": {"instructions": "x" * 200_000}}
        await flood(plain, frame(json.dumps(session).encode()))
        await eventually(lambda: not open_protocols(app))
        await eventually(lambda: not any(state.in_flight for state in states(app)))
        assert protocol.transport.get_write_buffer_size() == 0
        assert hung_up(plain)


async def test_pings_of_a_caller_that_reads_nothing_take_no_memory_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would have an answer, which nobody waits to send."""
    monkeypatch.setattr(write_timer, "SECONDS", 1.0)
    async with served() as app:
        plain = await raw(app, await app.key(), receives=4096)
        [protocol] = open_protocols(app)
        pings = asyncio.ensure_future(flood(plain, frame(b"x" * 125, 9) * 1000))
        most = 0
        while open_protocols(app):
            most = max(most, protocol.transport.get_write_buffer_size())
            await asyncio.sleep(0.005)
        assert 65_536 < most < 200_000
        await pings
        assert hung_up(plain)


async def test_pings_are_answered_again_when_a_caller_reads_again() -> None:
    async with served() as app:
        plain, loop = await raw(app, await app.key(), receives=4096), asyncio.get_running_loop()
        [protocol] = open_protocols(app)
        while protocol.writable.is_set():
            await loop.sock_sendall(plain, frame(b"x" * 125, 9) * 100)
        await loop.sock_sendall(plain, frame(b"the last one", 9))
        await eventually(lambda: b"the last one" in protocol._pongs)
        received = b""
        async with asyncio.timeout(PATIENCE):
            while not received.endswith(b"\x8a\x0cthe last one"):
                received = received[-20:] + await loop.sock_recv(plain, 1_000_000)
        plain.close()


async def test_the_end_of_a_connection_waits_for_no_caller_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is too little for the server to have stopped writing before."""
    monkeypatch.setattr(write_timer, "SECONDS", 0.3)
    async with served(timeouts={"socket_idle": 0.5}) as app:
        plain = await raw(app, await app.key(), "/v1/realtime?model=talk", receives=4096)
        [protocol] = open_protocols(app)
        message = frame(json.dumps({"type": "session.update", "session": {"instructions": "x" * 8000}}).encode())
        while not protocol.transport.get_write_buffer_size():
            await asyncio.get_running_loop().sock_sendall(plain, message)
            await asyncio.sleep(0.002)
        assert protocol.writable.is_set()
        await eventually(lambda: not open_protocols(app))
        assert hung_up(plain)


async def flood(plain: socket.socket, message: bytes) -> None:
    """Send a message again and again, until the connection is gone."""
    with contextlib.suppress(OSError):
        while True:
            await asyncio.get_running_loop().sock_sendall(plain, message)


def hung_up(plain: socket.socket) -> bool:
    """True if the server's end of a connection is gone, with all that its kernel held."""
    ends = select.poll()
    ends.register(plain, select.POLLHUP)
    gone = bool(ends.poll(15_000))
    plain.close()
    return gone


def states(app: Served) -> list[Any]:
    """The states of the deployments."""
    return list(app.application._running.backends.breakers.all().values())


async def test_an_upgrade_behind_a_call_under_way_is_refused_and_the_call_answered() -> None:
    async with served() as app:
        key, (host, port) = await app.key(), app.url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"host: x\r\nauthorization: Bearer {key}\r\n"
        nonce = base64.b64encode(os.urandom(16)).decode()
        upgrade = (
            f"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {nonce}"
        )
        writer.write(f"GET /v1/models HTTP/1.1\r\n{head}\r\n".encode())
        writer.write(f"GET /v1/responses HTTP/1.1\r\n{head}{upgrade}\r\n\r\n".encode())
        answers = await reader.read()
        writer.close()
        assert answers.startswith(b"HTTP/1.1 200 ")
        _, separator, refusal = answers.partition(b"HTTP/1.1 400 ")
        assert separator
        assert b"has to wait for the answers" in refusal
        assert not open_protocols(app)


async def test_large_messages_of_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "_MOST_UNFINISHED", 4_000_000)
    async with served() as app:
        key, loop = await app.key(), asyncio.get_running_loop()
        beginning = bytes([0x81, 0xFF]) + struct.pack("!Q", 3_000_000) + b"\x00" * 4 + b"x" * 2_500_000
        held = [await raw(app, key) for _ in range(2)]
        for plain in held:
            await loop.sock_sendall(plain, beginning)
        assert await ended_by(held[1]) == 1013
        held[0].close()
        await eventually(lambda: websocket_protocol.Unfinished.total == 0)


async def test_a_silent_connection_ends_and_so_does_a_long_one() -> None:
    async with served(timeouts={"socket_idle": 0.3, "socket": 0.8}) as app:
        key = await app.key()
        async with opened(app, key) as connection:
            error = await event(connection, "error")
            assert error["error"]["code"] == "websocket_connection_limit_reached"
            assert await close_code(connection) == 1001
        async with opened(app, key, "/v1/realtime?model=talk") as connection:
            for _ in range(4):
                await connection.send('{"type": "session.update", "session": {}}')
                await asyncio.sleep(0.15)
            assert (await event(connection, "error"))["error"]["code"] == "websocket_connection_limit_reached"
            assert await close_code(connection) == 1001


async def test_what_the_front_does_with_an_arrival_holds_for_upgrades() -> None:
    async with served(allowed_networks=["10.0.0.0/8"]) as app:
        with pytest.raises(InvalidStatus) as refused:
            await opened(app, await app.key())
        assert refused.value.response.status_code == 403
        assert b"address_not_allowed" in refused.value.response.body
    async with served(allowed_networks=["127.0.0.0/8"]) as app:
        key = await app.key()
        path = f"/v1/realtime?Subscription-Key={key}&model=talk"
        async with connect(app.url + path, additional_headers={"idempotency-key": "1"}, compression=None) as connection:
            await event(connection, "session.created")
        await eventually(lambda: app.simulator.log.entries)
        [upgrade] = app.simulator.log.entries
        assert (upgrade.query, "idempotency-key" in upgrade.headers) == ("model=gpt-realtime", False)


async def test_a_revoked_key_ends_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECHECK_EVERY", 0.1)
    async with served() as app:
        key = await app.key()
        async with opened(app, key, "/v1/realtime?model=talk") as connection:
            await event(connection, "session.created")
            await asyncio.sleep(0.3)  # it is valid, and so nothing happens
            await revoke(app, key)
            assert (await event(connection, "error"))["error"]["code"] == "invalid_api_key"
            assert await close_code(connection) == 1008


async def revoke(app: Served, key: str) -> None:
    """Delete the consumer, and forget what the process has cached of it."""
    consumers = app.application._authenticator._records._consumers
    version = await consumers.read(key.split("_")[1])
    assert version is not None
    await consumers.delete(version)
    app.application._authenticator._records._known.clear()


async def test_a_server_that_stops_lets_the_response_under_way_end() -> None:
    async with served(pace=0.02) as app:
        async with opened(app, await app.key()) as connection, opened(app, await app.key()) as quiet:
            await connection.send(json.dumps(CREATE))
            await event(connection, "response.output_text.delta")
            app.server.should_exit = True
            assert await close_code(quiet) == 1012
            await event(connection, "response.completed")
            assert await close_code(connection) == 1012
        [row] = app.rows()
        assert row["e_ended"] == "complete"


async def test_two_hundred_connections_that_never_speak_end_and_leave_nothing() -> None:
    async with served(timeouts={"socket_idle": 1.5}) as app:
        key = await app.key()
        before = len(asyncio.all_tasks())
        many = await asyncio.gather(*(opened(app, key, "/v1/realtime?model=talk") for _ in range(200)))
        codes = await asyncio.gather(*map(close_code, many))
        assert set(codes) == {1001}
        await eventually(lambda: len(app.server.server_state.connections) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 3)
        assert app.rows() == []
        assert all(state.in_flight == 0 for state in states(app))


async def test_a_caller_that_leaves_in_the_middle_is_on_record() -> None:
    async with served(pace=0.02) as app:
        connection = await opened(app, await app.key())
        await connection.send(json.dumps(CREATE))
        await event(connection, "response.output_text.delta")
        connection.transport.abort()
        await eventually(lambda: app.rows() and "e_ended" in app.rows()[0])
        [row] = app.rows()
        assert (row["e_ended"], row["e_est"]) == ("hung_up", True)
        await eventually(lambda: app.simulator.log.entries)  # the backend was told


async def test_a_response_that_its_caller_leaves_costs_its_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsaid, "_PAUSE", 0.1)
    monkeypatch.setattr(unsaid, "TOKENS_PER_SECOND", 100_000)
    rows = {}
    for model in ("gpt-4o", "o4-mini"):
        async with served(0.3, {model: model}) as app, opened(app, await app.key()) as connection:
            await connection.send(json.dumps(CREATE | {"model": model}))
            await event(connection, "response.output_text.delta")
            await connection.close()
            await eventually(lambda: any("e_status" in row for row in app.rows()))
            (rows[model],) = app.rows()
    assert {row["e_ended"] for row in rows.values()} == {"hung_up"}
    assert rows["gpt-4o"]["e_output"] < 100
    assert rows["o4-mini"]["e_output"] > 20_000
