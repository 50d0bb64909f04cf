"""The models that `make run` serves without a configuration, and the other names by which people call them."""

# The models of examples and demos. A test checks that each is in service for a while yet.
CURRENT = (
    "gpt-5.4-mini",
    "gpt-5.4",
    "gpt-5.6-luna",
    "gpt-4o",
    "gpt-4o-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "gpt-image-2",
    "gpt-4o-mini-tts",
    "gpt-4o-mini-transcribe",
    "omni-moderation-latest",
    "gpt-realtime",
)
# For programs that people bring along. Azure has retired most of them.
EARLIER = (
    "gpt-5-mini",
    "o3-mini",
    "o1",
    "gpt-4-turbo",
    "gpt-4-1106-preview",
    "gpt-35-turbo",
    "gpt-35-turbo-16k",
    "text-embedding-ada-002",
)
MODELS = (*CURRENT, *EARLIER)
ALIASES = {
    "gpt-5.4-mini": ("gpt-5.4-mini-2026-03-17",),
    "gpt-5.4": ("gpt-5.4-2026-03-05",),
    "gpt-5.6-luna": ("gpt-5.6-luna-2026-07-09",),
    "gpt-4o": ("gpt-4o-2024-11-20", "gpt-4o-2024-08-06", "chatgpt-4o-latest"),
    "gpt-4o-mini": ("gpt-4o-mini-2024-07-18",),
    "gpt-5-mini": ("gpt-5-mini-2025-08-07",),
    "o3-mini": ("o3-mini-2025-01-31",),
    "o1": ("o1-2024-12-17", "o1-preview", "o1-preview-2024-09-12"),
    "gpt-4-turbo": ("gpt-4-turbo-2024-04-09", "gpt-4"),
    "gpt-4-1106-preview": ("gpt-4-turbo-preview", "gpt-4-0125-preview"),
    "gpt-35-turbo": (
        *("gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-3.5-turbo-1106", "gpt-3.5-turbo-0613"),
        *("gpt-35-turbo-0125", "gpt-35-turbo-1106", "gpt-35-turbo-0613"),
    ),
    "gpt-35-turbo-16k": ("gpt-3.5-turbo-16k", "gpt-3.5-turbo-16k-0613", "gpt-35-turbo-16k-0613"),
}
