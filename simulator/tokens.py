"""The simulated tokenizer, text generator and prompt cache."""

import re
from collections import OrderedDict
from functools import lru_cache
from zlib import crc32

import msgspec

_TOKEN = re.compile(r"\w{1,8}|[^\w\s]", re.ASCII)
_WORDS = (
    "the", "toll", "is", "paid", "at", "every", "gate", "and", "a", "road", "that", "leads", "north", "to", "some",
    "quiet", "harbour", "where", "ships", "of", "many", "colours", "wait", "for", "morning", "tide", "before", "they",
    "sail", "on", "again",
)  # fmt: skip

CACHE_MINIMUM = 1_024
CACHE_STEP = 128


class Measure(msgspec.Struct, frozen=True):
    """`beginnings` are hashes of the text's first 1,024, 1,152, 1,280, … tokens."""

    tokens: int
    beginnings: tuple[int, ...]


def tokenize(text: str) -> list[str]:
    """Tokens of a text, without a vocabulary.

    A token is a run of one to eight ASCII letters, digits or underscores, or any other single character except ASCII
    white space. English has about one token per word, similar to real tokenizers; other scripts have one per character.
    """
    return _TOKEN.findall(text)


# Cached because load tests repeat their prompts, and tokenizing 100 kB takes 2 ms.
@lru_cache(maxsize=128)
def measure(text: str) -> Measure:
    tokens = tokenize(text)
    beginning = 0
    beginnings = []
    for end in range(CACHE_STEP, len(tokens) + 1, CACHE_STEP):
        beginning = hash((beginning, *tokens[end - CACHE_STEP : end]))
        if end >= CACHE_MINIMUM:
            beginnings.append(beginning)
    return Measure(len(tokens), tuple(beginnings))


def generate_tokens(prompt: str, choice: int, count: int) -> list[str]:
    """`count` deterministic words for a prompt and choice. Joined, they have `count` tokens."""
    start = crc32(prompt.encode("utf-8", "surrogatepass")) + 7 * choice
    words = [_WORDS[(start + position) % len(_WORDS)] for position in range(count)]
    return [word if position == 0 else f" {word}" for position, word in enumerate(words)]


def in_pieces(text: str) -> list[str]:
    """Split a text into as many pieces as it has tokens."""
    count = max(1, len(tokenize(text)))
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


class PromptCache:
    """Prompt prefixes that a deployment has seen, in Azure's steps: 1,024 tokens, then increments of 128.

    Evicts the least recently used entries beyond `capacity`; Azure's expire by time.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[int, None] = OrderedDict()

    def has(self, prefix: int) -> bool:
        """True for a prefix that a call has marked to be kept."""
        return prefix in self._seen

    def mark(self, prefix: int) -> None:
        """Keep a prefix."""
        self._seen[prefix] = None
        self._seen.move_to_end(prefix)

    def remember(self, prompt: Measure) -> int:
        """Add a prompt. Returns the number of leading tokens already cached (0, 1,024, 1,152, …)."""
        cached = 0
        for steps, beginning in enumerate(prompt.beginnings):
            if beginning in self._seen:
                cached = CACHE_MINIMUM + steps * CACHE_STEP
                self._seen.move_to_end(beginning)
            else:
                self._seen[beginning] = None
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        return cached
