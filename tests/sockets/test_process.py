"""WebSockets of the gateway as it is started: by its options, and with its own identity at the backends."""

from collections.abc import AsyncIterable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared.edges.http_protocol import UVICORN_OPTIONS
from shared.edges.websocket_protocol import LARGEST_MESSAGE
from tests.harness.system import System, eventually

pytestmark = pytest.mark.parametrize("edge", ["uvicorn"], indirect=True, scope="session")


async def answered(connection: AsyncIterable[Any]) -> Any:
    """The end of a response, or the error instead of it."""
    async for event in connection:
        if event.type in ("response.completed", "error"):
            return event
    raise AssertionError("the connection ended")


async def test_a_backend_without_a_key_gets_a_token_of_the_gateways_identity(gateway: System) -> None:
    model, key = gateway.spare(), gateway.make_key("sockets")
    async with gateway.async_openai(key) as client, client.responses.connect() as connection:
        for _ in range(2):
            await connection.response.create(model=model, input="Hello")
            assert (await answered(connection)).type == "response.completed"
    headers = {name.lower(): value for name, value in gateway.simulator.last_headers()}
    assert headers["authorization"] == "Bearer"  # the simulator shows no more of it
    assert "api-key" not in headers
    assert not [name for name, value in headers.items() if key in value]
    eventually(lambda: len(gateway.usage_rows(key)) == 2)
    assert {row["e_deployment"] for row in gateway.usage_rows(key)} == {model}


async def test_a_backend_that_refuses_the_token_is_passed_over(gateway: System) -> None:
    model, before = gateway.spare(), len(gateway.gateway.logs())
    gateway.simulator.fault("status", status=401, operation="GET responses", times=1)
    async with gateway.async_openai() as client, client.responses.connect() as connection:
        await connection.response.create(model=model, input="Hello")
        assert (await answered(connection)).type == "response.completed"
    alert = f"refuses the gateway on deployment {model} ("
    eventually(lambda: alert in gateway.gateway.logs()[before:])


async def test_messages_are_bounded_and_not_compressed(gateway: System) -> None:
    """A few compressed bytes could become many."""
    assert UVICORN_OPTIONS[UVICORN_OPTIONS.index("--ws-max-size") + 1] == str(LARGEST_MESSAGE)
    url, headers = gateway.url.replace("http", "ws", 1), {"authorization": f"Bearer {gateway.key}"}
    async with connect(f"{url}/v1/responses", additional_headers=headers, compression="deflate") as connection:
        assert connection.protocol.extensions == []
        with pytest.raises(ConnectionClosed) as closed:
            await connection.send("x" * (LARGEST_MESSAGE + 1))
            await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
