"""WebSockets through the official client: what its programs see, and what is on record then."""

import asyncio
import base64
from collections.abc import AsyncIterable
from typing import Any

import pytest
from openai import AsyncAzureOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from simulator.request_log import LogEntry
from tests.harness.patience import PATIENCE, eventually
from tests.harness.sockets import served

SECOND = base64.b64encode(b"\x01\x02" * 24_000).decode()  # of sound


async def say(connection: AsyncRealtimeConnection, text: str) -> None:
    item: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    await connection.conversation.item.create(item=item)


async def until(connection: AsyncIterable[Any], *kinds: str) -> Any:
    """The next event of one of these kinds."""
    async with asyncio.timeout(PATIENCE):
        async for event in connection:
            assert event.type in kinds or event.type != "error", event
            if event.type in kinds:
                return event
    raise AssertionError("the connection ended")


async def answered(connection: AsyncRealtimeConnection, **response: Any) -> Any:
    await connection.response.create(response=response)  # type: ignore[arg-type]
    return await until(connection, "response.done")


def books_as_charged(row: dict[str, Any], charge: LogEntry) -> bool:
    """True if a row has the tokens that the simulator has charged; cached sound counts as cached alone."""
    return (
        row["e_input"],
        row["e_output"],
        row.get("e_cached", 0),
        row.get("e_audio_out", 0),
    ) == (charge.input_tokens, charge.output_tokens, charge.cached_tokens, charge.audio_output_tokens)


async def test_realtime_answers_and_books_each_response() -> None:
    async with served() as app:
        key = await app.key()
        async with app.openai(key).realtime.connect(model="talk") as connection:
            assert (await connection.recv()).type == "session.created"
            await say(connection, "Good morning")
            first = await answered(connection, output_modalities=["text"])
            assert first.response.usage.output_tokens == 32
            assert len(app.rows()) == 1  # on record before the caller has the end
            await connection.input_audio_buffer.append(audio=SECOND)
            await connection.input_audio_buffer.commit()
            await answered(connection)
            third = await answered(connection)
        rows, charges = app.rows(), app.charged()
        assert len(rows) == len(charges) == 3
        assert all(map(books_as_charged, rows, charges))
        assert {(row["s_op"], row["s_model"], row["e_deployment"]) for row in rows} == {
            ("realtime", "talk", "gpt-realtime")
        }
        cached = third.response.usage.input_token_details.cached_tokens_details.audio_tokens
        heard = third.response.usage.input_token_details.audio_tokens
        assert cached == 10
        assert rows[2]["e_audio_in"] == heard - cached  # what is cached has the price of cached tokens
        assert rows[2]["e_ended"] == "complete"


@pytest.mark.parametrize("path", ["/openai/v1", "/v1"])
async def test_azures_paths_take_the_same_client(path: str) -> None:
    async with served() as app:
        client = app.openai(await app.key(), path)
        async with client.realtime.connect(model="gpt-realtime") as connection:
            await say(connection, "Hello")
            assert (await answered(connection, output_modalities=["text"])).response.status == "completed"


async def test_azures_dated_path_takes_azures_client() -> None:
    async with served() as app:
        client = AsyncAzureOpenAI(
            azure_endpoint=app.url.replace("ws", "http", 1),
            websocket_base_url=f"{app.url}/openai",
            api_key=await app.key(),
            api_version="2025-04-01-preview",
        )
        async with client.realtime.connect(model="talk") as connection:
            await say(connection, "Hello")
            await answered(connection, output_modalities=["text"])
        entry = app.simulator.log.entries[-1]
        assert (entry.path, entry.deployment) == ("/openai/realtime", "gpt-realtime")


TRANSCRIBER = "gpt-4o-mini-transcribe"


@pytest.mark.parametrize("listen", [TRANSCRIBER, {"deployment": TRANSCRIBER, "type": "data_zone"}])
async def test_a_transcription_is_booked_for_its_own_model(listen: str | dict[str, str]) -> None:
    models = {"gpt-realtime": "gpt-realtime", "listen": listen}
    async with served(models_of=models) as app:
        async with app.openai(await app.key()).realtime.connect(model="gpt-realtime") as connection:
            transcription = {"model": TRANSCRIBER}
            session: Any = {"type": "realtime", "audio": {"input": {"transcription": transcription}}}
            await connection.session.update(session=session)
            await until(connection, "session.updated")
            await connection.input_audio_buffer.append(audio=SECOND)
            await connection.input_audio_buffer.commit()
            await until(connection, "conversation.item.input_audio_transcription.completed")
        [row] = app.rows()
        assert (row["s_op"], row["s_model"], row["e_input"], row["e_audio_in"]) == (
            *("realtime.transcription", "listen"),
            *(10, 10),
        )


@pytest.mark.parametrize("path", ["/v1", "/openai/v1"])
@pytest.mark.parametrize(
    ("deployment", "booked"),
    [
        ("gpt-4o-mini-transcribe", {"e_input": 10, "e_audio_in": 10, "e_output": 5}),
        ("whisper", {"e_input": 0, "e_seconds": 1.0}),
    ],
)
async def test_a_session_that_only_transcribes_is_booked_for_its_model(
    path: str, deployment: str, booked: dict[str, float]
) -> None:
    """It names its model in `session.update`; the one in the query is for the gateway alone."""
    async with served(models_of={"listen": deployment, "talk": "gpt-realtime"}) as app:
        client = app.openai(await app.key(), path)
        async with client.realtime.connect(model="listen", extra_query={"intent": "transcription"}) as connection:
            created = await until(connection, "session.created")
            assert created.session.type == "transcription"
            session: Any = {"type": "transcription", "audio": {"input": {"transcription": {"model": deployment}}}}
            await connection.session.update(session=session)
            await until(connection, "session.updated")
            for _ in range(2):
                await connection.input_audio_buffer.append(audio=SECOND)
                await connection.input_audio_buffer.commit()
                await until(connection, "conversation.item.input_audio_transcription.completed")
        rows = app.rows()
        assert len(rows) == 2
        for row in rows:
            assert (row["s_op"], row["s_model"], row["e_deployment"]) == (
                *("realtime.transcription", "listen"),
                deployment,
            )
            assert {name: row[name] for name in booked} == booked
            assert not row.get("e_est")
        opened = app.simulator.log.entries[-1]
        assert (opened.operation, opened.deployment) == ("realtime", None)  # Azure takes no model beside the intent


async def test_a_response_that_the_backend_begins_by_itself_is_booked() -> None:
    async with served() as app:
        async with app.openai(await app.key()).realtime.connect(model="talk") as connection:
            session: Any = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
            await connection.session.update(session=session)
            await connection.input_audio_buffer.append(audio=SECOND)
            await until(connection, "response.done")
            await connection.input_audio_buffer.append(audio=SECOND)
            await until(connection, "response.done")
        assert all(map(books_as_charged, app.rows(), app.charged()))
        assert len(app.rows()) == 2


async def begun(connection: AsyncResponsesConnection, **fields: Any) -> Any:
    await connection.response.create(**fields)
    return await until(connection, "response.completed", "error")


async def test_responses_go_on_with_what_is_not_stored() -> None:
    async with served() as app:
        key = await app.key()
        async with app.openai(key).responses.connect() as connection:
            first = await begun(connection, model="mini", input="one", store=False)
            asked: Any = {"model": "mini", "store": False, "previous_response_id": first.response.id}
            second = await begun(connection, input="two simulate_recall", **asked)
            assert second.response.output_text == "one | two simulate_recall"
            third = await begun(connection, input="three simulate_recall", **asked)
            assert third.response.output_text == "one | three simulate_recall"
        rows, charges = app.rows(), app.charged()
        assert all(map(books_as_charged, rows, charges))
        assert [(row["s_op"], row["s_model"], row["e_deployment"]) for row in rows] == [
            ("responses.create", "mini", "gpt-4o-mini")
        ] * 3
        assert len({row["e_backend"] for row in rows}) == 1


async def test_a_stored_response_is_found_over_http_and_a_foreign_one_is_refused() -> None:
    async with served() as app:
        key, other = await app.key(), await app.key()
        client = app.openai(key)
        async with client.responses.connect() as connection:
            made = await begun(connection, model="gpt-4o", input="one")
            stored = await client.responses.retrieve(made.response.id)
            assert stored.id == made.response.id
        async with app.openai(other).responses.connect() as connection:
            refused = await begun(connection, model="gpt-4o", input="x", previous_response_id=made.response.id)
            assert (refused.status, refused.error.code) == (404, "not_found")
            own = await begun(connection, model="gpt-4o", input="x")  # the connection goes on
            refused = await begun(connection, model="gpt-4o", input="x", previous_response_id=made.response.id)
            assert refused.status == 404
            assert own.response.status == "completed"
        async with client.responses.connect() as connection:  # it goes where the object is
            more = await begun(
                connection, model="gpt-4o", input="two simulate_recall", previous_response_id=made.response.id
            )
            assert more.response.output_text == "one | two simulate_recall"


async def test_one_connection_serves_several_models_of_its_backend() -> None:
    async with served() as app:
        async with app.openai(await app.key()).responses.connect() as connection:
            for model in ("mini", "gpt-4o", "mini"):
                assert (await begun(connection, model=model, input="x")).type == "response.completed"
            unknown = await begun(connection, model="nonsense", input="x")
            assert (unknown.status, unknown.error.code) == (404, "model_not_found")
        rows = app.rows()
        assert [row["e_model"] for row in rows] == ["mini", "gpt-4o", "mini"]


async def test_the_first_backend_that_accepts_keeps_the_connection() -> None:
    async with served() as app:
        await app.simulator.listeners["swedencentral"].down()
        client = app.openai(await app.key())
        for _ in range(3):
            async with client.realtime.connect(model="talk") as connection:
                await say(connection, "Hello")
                await answered(connection, output_modalities=["text"])
            async with client.responses.connect() as both:
                assert (await begun(both, model="mini", input="x")).type == "response.completed"
        assert {row["e_backend"] for row in app.rows()} == {"virginia"}


async def test_a_backend_that_dies_ends_the_connection_with_an_error_that_clients_repeat() -> None:
    async with served(pace=0.05) as app:
        async with app.openai(await app.key()).realtime.connect(model="talk") as connection:
            await say(connection, "Hello")
            await connection.response.create(response={"output_modalities": ["text"]})
            delta = await until(connection, "response.output_text.delta")
            assert delta.delta
            for listener in app.simulator.listeners.values():
                await listener.down()
            with pytest.raises(ConnectionClosedError) as ended:
                await until(connection, "never")
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1011
        await eventually(lambda: app.rows() and "e_ended" in app.rows()[0])
        [row] = app.rows()
        assert (row["e_ended"], row["e_est"]) == ("cut", True)
        assert row["e_output"] > 0


async def test_no_backend_at_all_is_an_error_of_the_upgrade_or_of_the_response() -> None:
    async with served() as app:
        for listener in app.simulator.listeners.values():
            await listener.down()
        client = app.openai(await app.key())
        with pytest.raises(InvalidStatus) as refused:
            await client.realtime.connect(model="talk").enter()
        assert refused.value.response.status_code == 503
        assert b"no_backend_available" in (refused.value.response.body or b"")
        async with client.responses.connect() as connection:
            error = await begun(connection, model="mini", input="x")
            assert (error.status, error.error.code) == (503, "no_backend_available")
        assert app.rows() == [] or {row.get("e_status") for row in app.rows()} == {503}


async def test_a_wrong_key_is_refused_before_the_upgrade() -> None:
    async with served() as app:
        for client in (app.openai("tg_wrong"), app.openai("x")):
            with pytest.raises(InvalidStatus) as refused:
                await client.realtime.connect(model="talk").enter()
            assert refused.value.response.status_code == 401
            with pytest.raises(InvalidStatus) as refused:
                await client.responses.connect().enter()
            assert refused.value.response.status_code == 401
            assert b"invalid_api_key" in (refused.value.response.body or b"")
