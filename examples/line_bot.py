"""A LINE bot: signed webhooks in, answers of a model out, a reply and a log line for every way that a call can fail.

pip install flask line-bot-sdk openai
export LINE_CHANNEL_SECRET=… LINE_CHANNEL_ACCESS_TOKEN=…       # of your channel, from the LINE Developers Console
export OPENAI_BASE_URL=https://GATEWAY/v1 OPENAI_API_KEY=tg_…
python examples/line_bot.py                                     # and set the webhook to https://HOST/callback
"""

import hashlib
import logging
import os
import threading
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import openai
from flask import Flask, abort, request
from linebot.v3.exceptions import InvalidSignatureError
from linebot.v3.messaging import ApiClient, Configuration, MessagingApi, ReplyMessageRequest, TextMessage
from linebot.v3.messaging.exceptions import ApiException
from linebot.v3.webhook import WebhookParser
from linebot.v3.webhooks import MessageEvent, TextMessageContent, UserSource
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

SYSTEM = "You are the harbour master's assistant. Answer in one or two sentences, in the language of the question."
MOST_USERS, MOST_TURNS, MOST_EVENTS = 1000, 6, 1000
LONGEST = 5000  # characters of a LINE message
MOST_TOKENS = 2000  # of an answer with its reasoning
log = logging.getLogger("line_bot")


class Settings(NamedTuple):
    secret: str
    access_token: str
    model: str = "gpt-5.4-mini"
    line: str = "https://api.line.me"

    @classmethod
    def of_environment(cls) -> "Settings":
        given = {"model": os.environ.get("LINE_BOT_MODEL"), "line": os.environ.get("LINE_API")}
        secrets = os.environ["LINE_CHANNEL_SECRET"], os.environ["LINE_CHANNEL_ACCESS_TOKEN"]
        return cls(*secrets, **{name: text for name, text in given.items() if text})


# What a user reads, by the SDK's error: the more special ones first, because the first that fits counts.
REPLIES: tuple[tuple[type[Exception], str], ...] = (
    (openai.BadRequestError, "I cannot work with this message. Please say it in other words."),
    (openai.AuthenticationError, "I am not set up correctly. My operator has been told."),
    (openai.PermissionDeniedError, "I have used up what I may use, or may not use this. My operator has been told."),
    (openai.NotFoundError, "My model is gone. My operator has been told."),
    (openai.ConflictError, "Something else is just changing this. Please send it again."),
    (openai.UnprocessableEntityError, "I cannot read this message. Please say it in other words."),
    (openai.RateLimitError, "Too many questions at once. Please ask again in {wait}."),
    (openai.InternalServerError, "The model is out of order for the moment. Please ask again in {wait}."),
    (openai.APIStatusError, "Something unexpected happened. Please try again later."),
    (openai.APITimeoutError, "That took too long. Please ask again, or ask for less."),
    (openai.APIConnectionError, "I cannot reach the model. Please try again later."),
    (openai.APIResponseValidationError, "I did not understand the model's answer. Please ask again."),
    (openai.OpenAIError, "Something went wrong. Please try again later."),
)
FILTERED = "I do not talk about this."
EMPTY = "I thought so long about it that nothing was left for an answer. Please ask for less."


def reply_to(error: Exception) -> str:
    """The text that the user reads. Seconds to wait are those that the answer names."""
    if getattr(error, "code", None) == "content_filter":
        return FILTERED
    reply = next(reply for kind, reply in REPLIES if isinstance(error, kind))
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    seconds = headers.get("retry-after", "")
    return reply.format(wait=f"{seconds} s" if seconds.isdigit() else "a minute")


def note(error: Exception) -> None:
    """One line for the operator: the kind, the status, the code, and the id under which the gateway has logged it. No
    word of the user's."""
    status = error.status_code if isinstance(error, openai.APIStatusError) else "-"
    request_id = (error.request_id if isinstance(error, openai.APIStatusError) else None) or "-"
    code = getattr(error, "code", None) or "-"
    log.warning("%s status=%s code=%s x-request-id=%s", type(error).__name__, status, code, request_id)


class Bot:
    """Answers messages of users, each with the last turns of his talk. `answer` never raises."""

    def __init__(self, client: OpenAI, settings: Settings) -> None:
        self._client = client
        self._model = settings.model
        self._line = Configuration(host=settings.line, access_token=settings.access_token)
        self._talks: OrderedDict[str, deque[ChatCompletionMessageParam]] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()  # of the two

    def is_new(self, event: MessageEvent) -> bool:
        """False for an event that LINE delivers again: it has been answered, or is being."""
        with self._lock:
            if event.webhook_event_id in self._seen:
                return False
            self._seen[event.webhook_event_id] = None
            while len(self._seen) > MOST_EVENTS:
                self._seen.popitem(last=False)
        return True

    def handle(self, event: MessageEvent, text: str) -> None:
        """Answer one message. A user whose message cannot be answered reads why."""
        user = event.source.user_id if isinstance(event.source, UserSource) and event.source.user_id else "a group"
        self._send(event.reply_token or "", self.answer(user, text)[:LONGEST])

    def answer(self, user: str, text: str) -> str:
        with self._lock:
            talk = self._talks.setdefault(user, deque(maxlen=2 * MOST_TURNS))
            self._talks.move_to_end(user)
            while len(self._talks) > MOST_USERS:
                self._talks.popitem(last=False)
        try:
            answer = self._ask(user, [*talk, {"role": "user", "content": text}])
        except openai.OpenAIError as error:
            note(error)
            return reply_to(error)
        choice = answer.choices[0]
        if choice.finish_reason == "content_filter":
            return FILTERED
        if not choice.message.content:
            log.warning("an empty answer: %s, x-request-id=%s", choice.finish_reason, answer._request_id)
            return EMPTY
        talk.extend(({"role": "user", "content": text}, {"role": "assistant", "content": choice.message.content}))
        return choice.message.content

    def _ask(self, user: str, messages: list[ChatCompletionMessageParam]) -> ChatCompletion:
        return self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "system", "content": SYSTEM}, *messages],
            max_completion_tokens=MOST_TOKENS,
            # Limits per user, and Azure's watch over abuse, go by this; it is no one's name.
            safety_identifier=hashlib.sha256(user.encode()).hexdigest()[:32],
        )

    def _send(self, reply_token: str, text: str) -> None:
        try:
            with ApiClient(self._line) as line:
                message = TextMessage(text=text)
                MessagingApi(line).reply_message(ReplyMessageRequest(reply_token=reply_token, messages=[message]))
        except ApiException as error:  # such as a reply token that has expired
            request_id = (error.headers or {}).get("x-line-request-id", "-")
            log.warning("LINE refused the reply: status=%s x-line-request-id=%s", error.status, request_id)


def application(bot: Bot, settings: Settings, pool: ThreadPoolExecutor) -> Flask:
    """The web server. LINE expects an answer within a second or so, so the model is asked afterwards."""
    app = Flask("line_bot")
    parser = WebhookParser(settings.secret)

    @app.post("/callback")
    def callback() -> str:
        body = request.get_data(as_text=True)
        try:
            events = parser.parse(body, request.headers.get("X-Line-Signature", ""))
        except InvalidSignatureError:
            abort(400, "The signature is missing or wrong.")
        for event in events:
            if isinstance(event, MessageEvent) and isinstance(event.message, TextMessageContent) and bot.is_new(event):
                pool.submit(bot.handle, event, event.message.text)
        return "OK"

    return app


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    settings = Settings.of_environment()
    with OpenAI(timeout=50) as client, ThreadPoolExecutor(8) as pool:  # a reply token holds for about a minute
        application(Bot(client, settings), settings, pool).run(port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()
