"""Limits, rights and telemetry of WebSockets."""

import asyncio
import base64
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared.auth.consumers import Consumers
from shared.config.limits import Limits
from shared.types import Access
from simulator.faults import FaultRequest, Status
from tests.harness.consumers import create_consumer
from tests.harness.sockets import MODELS, Served, served
from tests.sockets.test_edge import close_code, event, opened

TALK = "/v1/realtime?model=talk"
SECOND = base64.b64encode(b"\x01\x02" * 24_000).decode()  # of sound
SPOKEN = {"type": "input_audio_buffer.append", "audio": SECOND}
LISTENING = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}}
CREATE = {"type": "response.create", "response": {"output_modalities": ["text"]}}


async def refusal(app: Served, key: str, path: str = TALK) -> tuple[int, str]:
    """Status and code with which an upgrade is refused."""
    with pytest.raises(InvalidStatus) as refused:
        await opened(app, key, path)
    body = json.loads(refused.value.response.body or b"")
    return refused.value.response.status_code, body["error"]["code"]


async def test_a_connection_holds_its_slot_as_long_as_it_is_open_and_its_responses_take_none() -> None:
    async with served() as app:
        key = await app.key(Limits(max_concurrent=1))
        async with opened(app, key, TALK) as connection:
            await event(connection, "session.created")
            assert await refusal(app, key) == (429, "rate_limit_exceeded")
            assert await refusal(app, key, "/v1/responses") == (429, "rate_limit_exceeded")
            for _ in range(2):
                await connection.send(json.dumps(CREATE))
                await event(connection, "response.done")
            assert await refusal(app, key) == (429, "rate_limit_exceeded")
        async with asyncio.timeout(5):
            while True:  # the slot is free once the server has seen the end
                try:
                    again = await opened(app, key, TALK)
                except InvalidStatus:
                    await asyncio.sleep(0.05)
                else:
                    break
        await again.close()


async def test_a_limit_that_has_run_out_answers_the_event_and_the_connection_goes_on() -> None:
    async with served() as app:
        key = await app.key(Limits(tokens_per_minute=60))
        async with opened(app, key, TALK) as connection:
            await event(connection, "session.created")
            done = 0
            error: Any = None
            for number in range(5):
                await connection.send(json.dumps({**CREATE, "event_id": f"mine_{number}"}))
                reply = await event(connection, "response.done", "error")
                if reply["type"] == "error":
                    error = reply["error"]
                    break
                done += 1
            assert done >= 1
            assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", f"mine_{done}")
            await connection.send('{"type": "session.update", "session": {}}')  # which costs nothing
            await event(connection, "session.updated")
        assert len(app.rows()) == done


async def test_responses_name_the_wait_in_the_error() -> None:
    async with served() as app:
        key = await app.key(Limits(requests_per_minute=2))  # the connection takes one
        async with opened(app, key) as connection:
            create = json.dumps({"type": "response.create", "model": "mini", "input": "x"})
            await connection.send(create)
            await event(connection, "response.completed")
            await connection.send(create)
            error = await event(connection, "error")
            assert (error["status"], error["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(error["headers"]["retry-after-ms"]) > 0
        assert len(app.rows()) == 1


async def test_a_budget_that_runs_out_while_the_backend_answers_by_itself_ends_the_connection() -> None:
    async with served() as app:
        key = await app.key(Limits(token_quota=100))
        async with opened(app, key, TALK) as connection:
            await connection.send(json.dumps(LISTENING))
            for _ in range(6):
                await connection.send(json.dumps(SPOKEN))
                reply = await event(connection, "response.done", "error")
                if reply["type"] == "error":
                    assert reply["error"]["code"] == "quota_exceeded"
                    break
            assert await close_code(connection) == 1008
        rows, charged = app.rows(), app.charged()
        assert len(rows) == len(charged)  # the one that was over the quota is on record, too
        assert [row["e_output"] for row in rows] == [entry.output_tokens for entry in charged]
        assert await refusal(app, key) == (403, "quota_exceeded")  # or each connection could have one more


async def test_a_key_may_use_its_models_and_regions_alone() -> None:
    async with served() as app:
        own = await app.key()
        assert await refusal(app, own, "/v1/realtime?model=gpt-4o-nothing") == (404, "model_not_found")
        limited = await named(app, models=frozenset(("mini",)))
        assert await refusal(app, limited) == (403, "model_not_allowed")
        async with opened(app, limited) as connection:
            await connection.send(json.dumps({"type": "response.create", "model": "gpt-4o", "input": "x"}))
            assert (await event(connection, "error"))["error"]["code"] == "model_not_allowed"
            await connection.send(json.dumps({"type": "response.create", "model": "mini", "input": "x"}))
            await event(connection, "response.completed")
        elsewhere = await named(app, access=Access(regions=frozenset(("eastus2",))))
        for _ in range(4):
            async with opened(app, elsewhere, TALK) as connection:
                assert connection.response is not None
                assert connection.response.headers["x-gateway-region"] == "eastus2"
        nowhere = await named(app, access=Access(regions=frozenset(("norwayeast",))))
        assert (await refusal(app, nowhere))[1] == "region_not_allowed"


async def named(app: Served, **more: Any) -> str:
    """A key with these rights."""
    given = {"models": None, "limits": Limits(), **more}
    _, text = await create_consumer(Consumers(app.tables), "limited", **given)
    return text


LOCAL: dict[str, Any] = {"type": "function", "name": "f"}
WEB: dict[str, Any] = {"type": "web_search"}
SERVERS: dict[str, Any] = {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example"}
STORED: dict[str, Any] = {"prompt": {"id": "pmpt_1"}}


@pytest.mark.parametrize(
    ("sent", "at"),
    [
        ({"type": "session.update", "session": {"type": "realtime", "tools": [SERVERS]}}, "session.tools[0]"),
        ({"type": "session.update", "SESSION": {"Tools": [SERVERS]}}, "session.Tools[0]"),
        ({"type": "session.update", "session": STORED}, "session.prompt"),
        ({"type": "response.create", "response": {"tools": [LOCAL, WEB]}}, "response.tools[1]"),
        ({"type": "response.create", "response": STORED}, "response.prompt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("access", [{"regions": frozenset(("swedencentral",))}, {"data_zones": frozenset(("eu",))}])
async def test_an_event_that_leads_out_of_a_keys_places_is_refused(
    sent: dict[str, Any], at: str, access: dict[str, Any]
) -> None:
    async with served(settings_of={"sweden": {"data_zone": "eu", "deployment": "regional"}}) as app:
        key = await named(app, access=Access(**access))
        async with opened(app, key, TALK) as connection:
            await event(connection, "session.created")
            await connection.send(json.dumps(sent))
            error = (await event(connection, "error"))["error"]
            assert (error["code"], error["param"]) == ("region_not_allowed", at)
            await connection.send(json.dumps({"type": "session.update", "session": {"tools": [LOCAL]}}))
            assert (await event(connection, "session.updated"))["session"]["tools"] == [LOCAL]
        assert app.rows() == []
        async with opened(app, await app.key(), TALK) as connection:
            await connection.send(json.dumps(sent))
            assert (await event(connection, "session.updated", "response.created", "error"))["type"] != "error"


async def test_a_response_that_leads_out_of_a_keys_places_is_refused() -> None:
    async with served() as app:
        key = await named(app, access=Access(regions=frozenset(("swedencentral",))))
        create: dict[str, Any] = {"type": "response.create", "model": "mini", "input": "x"}
        async with opened(app, key) as connection:
            for more, at in (({"tools": [WEB]}, "tools[0]"), ({"tools": [SERVERS]}, "tools[0]"), (STORED, "prompt")):
                await connection.send(json.dumps(create | more))
                error = await event(connection, "error")
                assert (error["status"], error["error"]["code"], error["error"]["param"]) == (
                    *(403, "region_not_allowed"),
                    at,
                )
            await connection.send(json.dumps(create))
            await event(connection, "response.completed")
        assert [row["e_region"] for row in app.rows()] == ["swedencentral"]


async def test_a_full_provisioned_deployment_spills_no_limited_key_over_to_a_global_one() -> None:
    """Neither the gateway's order leads out, nor a header of the caller's."""
    settings = {"sweden": {"kind": "provisioned", "deployment": "data_zone", "priority": 1, "data_zone": "eu"}}
    settings["virginia"] = {"deployment": "global", "priority": 2, "data_zone": "eu"}
    async with served(settings_of=settings) as app:
        key = await named(app, access=Access(data_zones=frozenset(("eu",))))
        headers = {"authorization": f"Bearer {key}", "x-ms-spillover-deployment": "gpt-4o"}
        async with connect(app.url + TALK, additional_headers=headers, compression=None) as connection:
            await event(connection, "session.created")
        received = app.simulator.log.last_received(None)
        assert received is not None
        assert not [name for name, _ in received.headers if b"spillover" in name.lower()]
        fault = Status(429, headers={"retry-after": "7"})
        app.simulator.faults.add(FaultRequest(fault=fault, region="swedencentral", operation="GET realtime"))
        assert await refusal(app, key) == (429, "rate_limit_exceeded")
        assert {entry.region for entry in app.simulator.log.entries} == {"swedencentral"}
        async with opened(app, await app.key(), TALK) as connection:  # any other key
            assert connection.response is not None
            assert connection.response.headers["x-gateway-backend"] == "virginia"


async def test_a_budget_that_runs_out_while_speech_is_transcribed_ends_the_connection() -> None:
    models = {**MODELS, "listen": "gpt-4o-mini-transcribe"}
    async with served(models_of=models) as app:
        key = await app.key(Limits(token_quota=40))  # each second is 15
        async with opened(app, key, "/v1/realtime?intent=transcription&model=listen") as connection:
            transcription = {"model": "gpt-4o-mini-transcribe"}
            session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
            await connection.send(json.dumps({"type": "session.update", "session": session}))
            for _ in range(6):
                await connection.send(json.dumps(SPOKEN))
                await connection.send('{"type": "input_audio_buffer.commit"}')
                reply = await event(connection, "conversation.item.input_audio_transcription.completed", "error")
                if reply["type"] == "error":
                    break
            assert reply["error"]["code"] == "quota_exceeded"
            assert await close_code(connection) == 1008
        rows = app.rows()
        assert len(rows) == len(app.charged()) >= 2  # the one that was over the quota is on record, too
        assert {(row["s_op"], row["s_model"], row["e_input"]) for row in rows} == {
            ("realtime.transcription", "listen", 10)
        }
        assert await refusal(app, key) == (403, "quota_exceeded")


async def test_a_drained_backend_takes_no_new_connection() -> None:
    async with served() as app:
        key = await app.key()
        await app.simulator.listeners["swedencentral"].down()
        async with opened(app, key, TALK) as connection:
            assert connection.response is not None
            assert connection.response.headers["x-gateway-backend"] == "virginia"


async def test_a_throttled_backend_is_passed_over_and_all_of_them_answer_429() -> None:
    async with served() as app:
        for region in ("swedencentral", "eastus2"):
            fault = Status(429, headers={"retry-after": "7"})
            app.simulator.faults.add(FaultRequest(fault=fault, region=region, operation="GET realtime", times=1))
        key = await app.key()
        assert await refusal(app, key) == (429, "rate_limit_exceeded")


async def test_a_backend_without_websockets_says_so_and_keeps_its_other_calls() -> None:
    async with served() as app:
        for operation in ("GET realtime", "GET responses"):
            app.simulator.faults.add(FaultRequest(fault=Status(404), operation=operation))
        key = await app.key()
        assert await refusal(app, key) == (501, "websockets_not_supported")
        async with opened(app, key) as connection:
            await connection.send(json.dumps({"type": "response.create", "model": "mini", "input": "x"}))
            error = await event(connection, "error")
            assert (error["status"], error["error"]["code"]) == (426, "websockets_not_supported")
            assert await close_code(connection) == 1008
        answer = await app.openai(key).responses.create(model="mini", input="x")  # no deployment was ejected
        assert answer.status == "completed"


async def test_the_user_behind_a_key_is_on_record() -> None:
    async with served(end_users={"header": "x-user", "plain": True}) as app:
        key = await app.key()
        headers = {"authorization": f"Bearer {key}", "x-user": "ada"}
        async with connect(app.url + TALK, additional_headers=headers, compression=None) as connection:
            await connection.send(json.dumps(CREATE))
            await event(connection, "response.done")
        [row] = app.rows()
        assert row["s_user"] == "ada"
