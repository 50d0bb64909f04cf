"""The charges for attempts that did not answer the caller, and the party that a failure counts against."""

import asyncio
import resource
import signal
from collections.abc import Iterator

import pytest
from starlette.types import Message

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_upload
from shared.config.document import Model, Timeouts
from shared.errors import GatewayError
from shared.forwarding.forwarded_call import ForwardingFailed
from shared.requests._deadline import BodyDeadline
from shared.requests.buffers import Buffers
from shared.requests.upload import Upload
from shared.types import LEFT, LEFT_EARLY, Attempt
from tests.forwarding.test_late_attempts import Charges
from tests.harness.patience import eventually
from tests.harness.scripted_backends import (
    ANYONE,
    Exchange,
    chat,
    completion,
    forwarding,
    unreachable_port,
)

BOUNDARY = "part"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


async def answering(exchange: Exchange) -> None:
    exchange.answer(completion())


async def hanging(_: Exchange) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("reached", [True, False])
async def test_a_deadline_before_the_request_is_sent_costs_nothing(reached: bool) -> None:
    with unreachable_port() as port:
        async with forwarding(hanging if reached else port, timeouts=Timeouts(connect=5, total=1.5)) as (running, _):
            sending = running.sending(chat())
            with pytest.raises(ForwardingFailed):
                await sending.run()
            assert [attempt.usage is not None for attempt in sending.attempts] == [reached]


@pytest.mark.parametrize("reached", [True, False])
async def test_a_caller_that_leaves_before_its_request_is_sent_is_charged_nothing(reached: bool) -> None:
    with unreachable_port() as port:
        async with forwarding(hanging if reached else port, timeouts=Timeouts(connect=15)) as (running, (backend,)):
            sending = running.sending(chat())
            task = asyncio.ensure_future(sending.run())
            await asyncio.sleep(0.1)
            await eventually(lambda: backend.received or not reached)
            task.cancel()
            await asyncio.wait((task,))
            assert [attempt.problem for attempt in sending.attempts] == [LEFT if reached else LEFT_EARLY]


async def test_a_hedged_attempt_that_never_reached_its_backend_costs_nothing() -> None:
    charged = Charges()
    hedged = {"m": Model(hedge=True)}
    with unreachable_port() as port:
        async with forwarding(port, answering, timeouts=Timeouts(connect=5, total=2.0), models=hedged) as (running, _):
            attempts: list[Attempt] = []
            for _ in range(2):  # each backend is the first once
                sending = running.sending(chat(), charged)
                answer = await sending.run()
                answer.close()
                attempts += sending.attempts
            await running.late.close()
            assert sorted(attempt.target.backend.name for attempt in attempts) == ["a", "b", "b"]
    assert [
        attempt.usage for attempt in [*attempts, *(late for _, late in charged)] if attempt.target.backend.name == "a"
    ] == [None]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """The system refuses files of more than two megabytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def form(pieces: int, *, model_first: bool) -> list[bytes]:
    model = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'.encode()
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    parts = [file, *[bytes(65_536) for _ in range(pieces)], b"\r\n"]
    return [*([model, *parts] if model_first else [*parts, model]), f"--{BOUNDARY}--\r\n".encode()]


async def admitted() -> None: ...


def upload_of(chunks: list[bytes], pause: float = 0.0) -> Upload:
    waiting = iter(chunks)
    length = sum(map(len, chunks))
    left = len(chunks)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": next(waiting), "more_body": left > 0}

    headers = HEADERS | {"content-length": str(length)}
    return Upload(receive, headers, 10**9, BodyDeadline(60, admitted), Buffers(10**9).open("ann"))


async def test_a_full_disk_costs_an_upload_its_retries_and_is_no_fault_of_a_backend(full_disk: None) -> None:
    async def serving(exchange: Exchange) -> None:
        exchange.answer({"text": "hello"})

    async with forwarding(serving, serving) as (running, backends):
        for _ in range(6):
            upload = upload_of(form(60, model_first=True))
            model = await upload.find_model()
            call = parse_upload(match("POST", "/v1/audio/transcriptions"), "", HEADERS, model, stream=False)
            plan = running.router.plan(ANYONE, call)
            answer = await running.forwarder.sending(call, plan, "r", upload).run()
            answer.close()
            upload.close()
            assert answer.status == 200
        assert sum(len(backend.received) for backend in backends) == 6
        assert {running.state(name).health.faults for name in "ab"} == {0}


async def test_an_upload_whose_model_follows_a_file_that_cannot_be_kept_is_refused_in_clear_words(
    full_disk: None,
) -> None:
    upload = upload_of(form(60, model_first=False))
    with pytest.raises(GatewayError, match="No room is left to keep this upload"):
        await upload.find_model()
    upload.close()


async def test_an_exception_of_the_gateways_own_is_no_fault_of_a_backend() -> None:
    class Defect(Exception):
        pass

    async with forwarding(answering, answering) as (running, _):
        upload = upload_of(form(2, model_first=True))
        call = parse_upload(match("POST", "/v1/audio/transcriptions"), "", HEADERS, "m", stream=False)
        plan = running.router.plan(ANYONE, call)

        async def receive() -> Message:
            raise Defect

        upload._receive = receive
        with pytest.raises(Defect):
            await running.forwarder.sending(call, plan, "r", upload).run()
        upload.close()
        assert {running.state(name).health.faults for name in "ab"} == {0}


async def test_the_time_of_an_upload_starts_with_its_end() -> None:
    """A slow caller leaves the second attempt as much time as a quick one."""

    async def failing(exchange: Exchange) -> None:
        exchange.answer({"error": {"message": "No."}}, 500)

    async def serving(exchange: Exchange) -> None:
        exchange.answer({"text": "hello"})

    async with forwarding(failing, failing, timeouts=Timeouts(total=1.0)) as (running, backends):
        upload = upload_of(form(2, model_first=True), pause=0.3)
        call = parse_upload(match("POST", "/v1/audio/transcriptions"), "", HEADERS, "m", stream=False)
        plan = running.router.plan(ANYONE, call)
        backends[1 if plan.targets[0].backend.name == "a" else 0].script = serving
        answer = await running.forwarder.sending(call, plan, "r", upload).run()
        answer.close()
        upload.close()
        assert answer.status == 200
