"""Request bodies of chats, completions and embeddings. Invalid ones are rejected with Azure's 400."""

from typing import Annotated, ClassVar

import msgspec

from simulator import errors

MESSAGE_OVERHEAD = 3
IMAGE_TOKENS = 85

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
ChoiceCount = Annotated[int, msgspec.Meta(ge=1, le=128)]


AUDIO_BYTES_PER_TOKEN = 1_600


class InputAudio(msgspec.Struct, frozen=True):
    data: str = ""


class ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    input_audio: InputAudio | None = None


class Message(msgspec.Struct, frozen=True):
    role: str = ""
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.type == "text")

    @property
    def overhead_tokens(self) -> int:
        """Tokens of the message in addition to its text."""
        parts = self.content if isinstance(self.content, list) else ()
        return MESSAGE_OVERHEAD + IMAGE_TOKENS * sum(part.type == "image_url" for part in parts) + self.audio_tokens

    @property
    def audio_tokens(self) -> int:
        parts = self.content if isinstance(self.content, list) else ()
        sounds = [part.input_audio.data for part in parts if part.input_audio is not None]
        return sum(1 + len(sound) * 3 // 4 // AUDIO_BYTES_PER_TOKEN for sound in sounds)  # base64


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    messages: list[Message] | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n: ChoiceCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    prediction: Message | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None

    @property
    def prompts(self) -> list[str]:
        return ["\n".join(message.text for message in self.messages or ())]

    @property
    def overhead_tokens(self) -> int:
        return sum(message.overhead_tokens for message in self.messages or ())

    @property
    def output_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def estimated_tokens(self) -> int:
        """Tokens counted against the rate limit on arrival: characters / 4 plus the maximum output."""
        return sum(map(len, self.prompts)) // 4 + (self.output_limit or 0) * (self.n or 1)

    def check(self) -> None:
        if self.messages is None:
            raise errors.missing_parameter("messages")
        if not self.messages:
            raise errors.invalid_request(
                "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array "
                "instead.",
                "messages",
                "empty_array",
            )


class CompletionRequest(msgspec.Struct, frozen=True):
    overhead_tokens: ClassVar[int] = 0

    model: str | None = None
    prompt: str | list[str | int | list[int]] | None = None
    max_tokens: PositiveInt | None = None
    n: ChoiceCount | None = None
    best_of: ChoiceCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def prompts(self) -> list[str]:
        return _texts(self.prompt or "", "prompt")

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens

    @property
    def estimated_tokens(self) -> int:
        """As for a chat, with up to `best_of` answers per prompt."""
        prompts = self.prompts
        answers = max(self.n or 1, self.best_of or 1) * len(prompts)
        return sum(map(len, prompts)) // 4 + (self.output_limit or 0) * answers

    def check(self) -> None:
        if self.prompt is None:
            raise errors.missing_parameter("prompt")


class EmbeddingRequest(msgspec.Struct, frozen=True):
    stream: ClassVar[bool] = False

    model: str | None = None
    input: str | list[str | int | list[int]] | None = None
    encoding_format: str = "float"
    dimensions: PositiveInt | None = None

    @property
    def texts(self) -> list[str]:
        return _texts(self.input or "", "input")

    @property
    def estimated_tokens(self) -> int:
        return sum(map(len, self.texts)) // 4

    def check(self) -> None:
        if self.input is None:
            raise errors.missing_parameter("input")
        if not self.input or len(self.texts) > 2_048:
            raise errors.invalid_request("'$.input' is invalid. It must hold 1 to 2048 inputs.", "input")
        if self.encoding_format not in ("float", "base64"):
            raise errors.invalid_request(
                f"Invalid value: '{self.encoding_format}'. Supported values are: 'float' and 'base64'.",
                "encoding_format",
                "invalid_value",
            )


OperationRequest = ChatRequest | CompletionRequest | EmbeddingRequest


def _texts(value: str | list[str | int | list[int]], param: str) -> list[str]:
    """One text per input. Raises AzureError 400 for mixed types."""
    if isinstance(value, str):
        return [value]
    strings = [item for item in value if isinstance(item, str)]
    numbers = [item for item in value if isinstance(item, int)]
    lists = [item for item in value if isinstance(item, list)]
    if len(value) not in (len(strings), len(numbers), len(lists)):
        raise errors.invalid_request(f"Invalid type for '{param}': expected one string, or a list of one kind.", param)
    return strings or [_as_words(item) for item in lists] or [_as_words(numbers)]


def _as_words(tokens: list[int]) -> str:
    """One word per token id, so that the text has as many tokens."""
    return " ".join(f"t{abs(token)}"[:8] for token in tokens)
