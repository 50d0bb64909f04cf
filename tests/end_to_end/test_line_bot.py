"""The LINE bot of `examples/`: signed webhooks over HTTP, a LINE that takes its replies, and every error of the SDK."""

import base64
import hashlib
import hmac
import http.client
import importlib.util
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from openai import OpenAI
from werkzeug.serving import make_server

from tests.harness.gateway_process import cli
from tests.harness.system import PATIENT, System, eventually

_SPEC = importlib.util.spec_from_file_location("line_bot", Path(__file__).parents[2] / "examples" / "line_bot.py")
assert _SPEC is not None
assert _SPEC.loader is not None
line_bot: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(line_bot)

SECRET = "the channel's secret, for tests"
TOKEN = "the channel's access token, for tests"
_numbers = itertools.count()


class Line(ThreadingHTTPServer):
    """LINE's API, as far as a bot that replies needs it: keeps the replies, and refuses a token that it has seen."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.refused = 0
        super().__init__(("127.0.0.1", 0), _LineHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def texts(self) -> dict[str, str]:
        """The texts that users have read, by the reply's token."""
        return {reply["replyToken"]: reply["messages"][0]["text"] for reply in self.replies}


class _LineHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        line: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = self.path == "/v2/bot/message/reply" and self.headers["authorization"] == f"Bearer {TOKEN}"
        used = body["replyToken"] in [reply["replyToken"] for reply in line.replies]
        if known and not used:
            line.replies.append(body)
        line.refused += used
        status = 200 if known and not used else 400
        data = b'{"sentMessages": []}' if status == 200 else b'{"message": "Invalid reply token"}'
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-line-request-id", "line-1")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with Line() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Running(NamedTuple):
    """A bot on a port, and the LINE that it replies to."""

    port: int
    line: Line

    def deliver(self, body: bytes, signature: str | None = None) -> int:
        """The status of a webhook. `signature` None: the right one."""
        right = base64.b64encode(hmac.digest(SECRET.encode(), body, hashlib.sha256)).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/callback", body, {"x-line-signature": right if signature is None else signature})
        status = connection.getresponse().status
        connection.close()
        return status

    def say(self, text: str, user: str = "U1") -> str:
        """The text that the user reads."""
        body = webhook(text, user)
        token = json.loads(body)["events"][0]["replyToken"]
        assert self.deliver(body) == 200
        eventually(lambda: token in self.line.texts)
        return self.line.texts[token]


def webhook(text: str, user: str = "U1", **more: Any) -> bytes:
    number = next(_numbers)
    event = {
        "type": "message",
        "mode": "active",
        "timestamp": 1_700_000_000_000,
        "source": {"type": "user", "userId": user},
        "webhookEventId": f"event-{number}",
        "deliveryContext": {"isRedelivery": False},
        "replyToken": f"reply-{number}",
        "message": {"id": str(number), "type": "text", "text": text, "quoteToken": "q"},
    }
    return json.dumps({"destination": "U0", "events": [event | more]}).encode()


Start = Callable[..., Running]


@pytest.fixture
def start(line: Line) -> Iterator[Start]:
    """Starts bots, each with a client of its own."""
    closing: list[Callable[[], Any]] = []
    clients: dict[str, OpenAI] = {}

    def begin(url: str, key: str, model: str = "gpt-5.4-mini", **options: Any) -> Running:
        settings = line_bot.Settings(SECRET, TOKEN, model, line.url)
        given = {"base_url": url, "api_key": key, **PATIENT, **options}
        if str(given) not in clients:
            clients[str(given)] = OpenAI(**given)
            closing.append(clients[str(given)].close)
        client = clients[str(given)]
        pool = ThreadPoolExecutor(2)
        app = line_bot.application(line_bot.Bot(client, settings), settings, pool)
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        closing.extend((server.shutdown, thread.join, server.server_close, pool.shutdown))
        return Running(server.server_port, line)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    yield begin
    for close in closing:
        close()


def test_a_signed_message_is_answered_and_the_talk_goes_on(gateway: System, start: Start) -> None:
    bot = start(f"{gateway.url}/v1", gateway.key)
    first = bot.say("When is high tide?")
    assert first
    assert bot.say("And tomorrow?") != first
    body = json.loads(gateway.simulator.last_body())
    said = [message["content"] for message in body["messages"] if message["role"] != "system"]
    assert said == ["When is high tide?", first, "And tomorrow?"]
    assert body["safety_identifier"] == hashlib.sha256(b"U1").hexdigest()[:32]
    bot.say("Hello", user="U2")
    assert len(json.loads(gateway.simulator.last_body())["messages"]) == 2  # another user's talk is another


def test_a_message_without_the_right_signature_is_refused(gateway: System, start: Start) -> None:
    bot = start(f"{gateway.url}/v1", gateway.key)
    before = len(bot.line.replies)
    body = webhook("Hello")
    for wrong in ("", "bm90IGl0", base64.b64encode(hmac.digest(b"another", body, hashlib.sha256)).decode()):
        assert bot.deliver(body, wrong) == 400
    assert bot.deliver(json.dumps({"destination": "U0", "events": []}).encode()) == 200  # how LINE tries a webhook
    assert bot.deliver(webhook("", message={"id": "1", "type": "sticker", "packageId": "1", "stickerId": "2",
                                            "stickerResourceType": "STATIC", "quoteToken": "q"})) == 200  # fmt: skip
    assert len(bot.line.replies) == before


def test_an_event_that_is_delivered_again_is_answered_once(gateway: System, start: Start) -> None:
    bot = start(f"{gateway.url}/v1", gateway.key)
    body, before = webhook("Once"), len(bot.line.replies)
    assert [bot.deliver(body), bot.deliver(body)] == [200, 200]
    bot.say("Twice")
    eventually(lambda: len(bot.line.replies) == before + 2)


def test_a_reply_that_line_refuses_is_in_the_log(
    gateway: System, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bot = start(f"{gateway.url}/v1", gateway.key)
    bot.say("Hello")
    used = list(bot.line.texts)[-1]
    refused = bot.line.refused
    assert bot.deliver(webhook("Again", replyToken=used)) == 200
    eventually(lambda: bot.line.refused > refused)
    eventually(lambda: "LINE refused the reply: status=400 x-line-request-id=line-1" in caplog.text)


def test_every_error_of_the_sdk_has_a_reply_and_a_line_in_the_log(
    gateway: System, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    url, faults = f"{gateway.url}/v1", gateway.simulator.fault
    limited = cli(
        gateway.gateway.environment, "keys", "create", f"a-bot-{gateway.edge}", "--requests-per-minute", "1", "--json"
    )["key"]
    narrow = gateway.make_key("a narrow bot", models=["gpt-4o-mini"])
    seen: dict[str, str] = {}

    def expect(error: type[Exception], status: object, reply: str, bot: Running, text: str = "Hello") -> None:
        caplog.clear()
        assert reply in bot.say(text)
        (line,) = [record.getMessage() for record in caplog.records if record.name == "line_bot"]
        assert line.startswith(f"{error.__name__} status={status} code="), line
        request_id = line.rpartition("x-request-id=")[2]
        assert (len(request_id) > 8) is isinstance(status, int), line
        assert text not in line
        seen[error.__name__] = request_id

    plain = start(url, gateway.key)
    expect(openai.BadRequestError, 400, "I do not talk about this", plain, "simulate_content_filter")
    expect(openai.AuthenticationError, 401, "not set up correctly", start(url, "tg_wrong"))
    expect(openai.PermissionDeniedError, 403, "may not use this", start(url, narrow))
    expect(openai.NotFoundError, 404, "My model is gone", start(url, gateway.key, "no-such-model"))
    once = start(url, limited, "gpt-4o-mini")
    once.say("Hello")  # takes the only call of this minute
    expect(openai.RateLimitError, 429, "Please ask again in ", once)
    for status, error, reply in (
        (400, openai.BadRequestError, "in other words"),
        (409, openai.ConflictError, "just changing this"),
        (422, openai.UnprocessableEntityError, "cannot read this message"),
        (418, openai.APIStatusError, "Something unexpected"),
    ):
        model = gateway.lone()
        faults("status", deployment=model, status=status, times=1)
        expect(error, status, reply, start(url, gateway.key, model))
    model = gateway.lone()
    faults("status", deployment=model, status=503)
    expect(openai.InternalServerError, 503, "out of order", start(url, gateway.key, model))
    model = gateway.lone()
    faults("delay", deployment=model, seconds=1.0, times=1)
    expect(openai.APITimeoutError, "-", "took too long", start(url, gateway.key, model, timeout=0.2))
    expect(openai.APIConnectionError, "-", "cannot reach the model", start("http://127.0.0.1:9/v1", "tg_x"))
    handled = {error.__name__ for error, _ in line_bot.REPLIES}
    assert handled - set(seen) == {"APIResponseValidationError", "OpenAIError"}
    kinds = [getattr(openai, name) for name in openai.__all__]
    errors = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, openai.APIError)]
    errors.remove(openai.APIError)  # of a stream, which the bot does not use
    assert len(errors) > 10
    assert [kind for kind in errors if not issubclass(kind, tuple(error for error, _ in line_bot.REPLIES[:-1]))] == []


def test_an_empty_answer_is_said_to_be_one(gateway: System, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = start(f"{gateway.url}/v1", gateway.key)
    assert "thought so long" not in bot.say("Hello")
    monkeypatch.setattr(line_bot, "MOST_TOKENS", 10)
    assert "thought so long" in bot.say("Hello")
