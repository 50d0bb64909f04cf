"""The simulated models: kind, version, context window and embedding size."""

import re
from typing import Literal

import msgspec

Kind = Literal[
    "chat",
    "reasoning",
    "completions",
    "embeddings",
    "images",
    "speech",
    "transcription",
    "moderation",
    "realtime",
    "messages",
]


class Model(msgspec.Struct, frozen=True):
    """Answers append `version` to the name, like Azure. `dimensions` is 0 except for embeddings. `chooses`: the model
    that answers for one that only chooses."""

    name: str
    kind: Kind
    context_window: int
    version: str = ""
    dimensions: int = 0
    chooses: str = ""

    @property
    def answered_name(self) -> str:
        if self.chooses:
            return self.chooses
        return f"{self.name}-{self.version}" if self.version else self.name


_MODELS = {
    model.name: model
    for model in (
        Model("gpt-5.4", "reasoning", 1_050_000, "2026-03-05"),
        Model("gpt-5.4-mini", "reasoning", 400_000, "2026-03-17"),
        Model("gpt-5.6-luna", "reasoning", 1_050_000, "2026-07-09"),
        Model("gpt-5-mini", "reasoning", 400_000, "2025-08-07"),
        Model("gpt-4o", "chat", 128_000, "2024-11-20"),
        Model("gpt-4o-mini", "chat", 128_000, "2024-07-18"),
        Model("gpt-4.1", "chat", 1_047_576, "2025-04-14"),
        Model("gpt-4.1-mini", "chat", 1_047_576, "2025-04-14"),
        Model("gpt-4.1-nano", "chat", 1_047_576, "2025-04-14"),
        Model("gpt-4-turbo", "chat", 128_000, "2024-04-09"),
        Model("gpt-4-1106-preview", "chat", 128_000),
        Model("gpt-35-turbo", "chat", 16_385, "0125"),
        Model("gpt-35-turbo-16k", "chat", 16_384, "0613"),
        Model("o1", "reasoning", 200_000, "2024-12-17"),
        Model("o3-mini", "reasoning", 200_000, "2025-01-31"),
        Model("o3", "reasoning", 200_000, "2025-04-16"),
        Model("o4-mini", "reasoning", 200_000, "2025-04-16"),
        Model("model-router", "chat", 200_000, chooses="gpt-5.4-mini-2026-03-17"),
        Model("gpt-35-turbo-instruct", "completions", 4_097),
        Model("text-embedding-3-small", "embeddings", 8_192, dimensions=1_536),
        Model("text-embedding-3-large", "embeddings", 8_192, dimensions=3_072),
        Model("text-embedding-ada-002", "embeddings", 8_192, dimensions=1_536),
    )
}
_KINDS_BY_NAME: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"text-embedding"), "embeddings"),
    (re.compile(r".*-instruct$"), "completions"),
    (re.compile(r"gpt-image|dall-e"), "images"),
    (re.compile(r"tts|.*-tts"), "speech"),
    (re.compile(r"whisper|.*-transcribe"), "transcription"),
    (re.compile(r".*-moderation"), "moderation"),
    (re.compile(r"gpt-(4o-)?realtime"), "realtime"),
    (re.compile(r"o\d|gpt-5"), "reasoning"),
    (re.compile(r"claude"), "messages"),
)


def find_model(name: str, kind: Kind | None = None) -> Model:
    """A model by name. Unknown models get a default context window, and their kind from `kind` or the name."""
    model = _MODELS.get(name)
    if model is not None and kind in (None, model.kind):
        return model
    kind = kind or _kind_of(name)
    if kind == "embeddings":
        return Model(name, kind, 8_192, dimensions=1_536)
    return Model(name, kind, 200_000 if kind == "messages" else 128_000)


def _kind_of(name: str) -> Kind:
    return next((kind for pattern, kind in _KINDS_BY_NAME if pattern.match(name)), "chat")
