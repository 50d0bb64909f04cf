"""The objects that callers created in one region, by kind. Other regions do not know their ids."""

import secrets
from collections.abc import Callable
from typing import Any

from . import errors
from .collection import Collection, Kept, Object, Plain, Work
from .content import Content


class StoredCompletion(Plain):
    """A chat completion and its input messages."""

    def __init__(self, object: Object, messages: list[Object]) -> None:
        super().__init__(object)
        self.messages = messages


class StoredResponse(Plain):
    """`context`: all input items, including those of earlier responses. `events`: those of its stream. `done`: epoch
    seconds of its completion. `cancel` stops it."""

    def __init__(self, object: Object, input_items: list[Object], context: list[Object]) -> None:
        super().__init__(object)
        self.input_items = input_items
        self.context = context
        self.events: list[Any] = []
        self.done = 0.0
        self.cancel: Callable[[], None] | None = None


class Conversation(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.items: Collection[Plain] = Collection(_missing("Item with id '{}' not found in this conversation."))


class PendingUpload(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.parts: dict[str, Content] = {}


class VectorStore(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        name = object["id"]
        self.files: Collection[Plain] = Collection(_missing(f"No file found with id '{{}}' in vector store '{name}'."))
        self.batches: Collection[Plain] = Collection(_missing("No file batch found with id '{}'."))


class Container(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.files: Collection[Kept] = Collection(_missing("Container file with id '{}' not found."))


class Run(Plain):
    """`cancel` stops a turn in progress."""

    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.steps: Collection[Plain] = Collection(_missing("No run step found with id '{}'."))
        self.cancel: Callable[[], None] | None = None


class Thread(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.messages: Collection[Plain] = Collection(_missing("No message found with id '{}'."))
        self.runs: Collection[Run] = Collection(_missing("No run found with id '{}'."))


class FineTuningJob(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.events: list[Object] = []
        self.checkpoints: list[Object] = []


class Evaluation(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.runs: Collection[EvaluationRun] = Collection(_missing("Eval run with id '{}' not found."))


class EvaluationRun(Plain):
    def __init__(self, object: Object) -> None:
        super().__init__(object)
        self.items: Collection[Plain] = Collection(_missing("Output item with id '{}' not found."))


class MessageBatch(Plain):
    """`results`: the lines of its results, once it has ended. `end` ends it at once."""

    def __init__(self, object: Object, end: Callable[[], None]) -> None:
        super().__init__(object)
        self.results: Content | None = None
        self.end = end


class Store:
    """All objects of a region. `secret` signs sealed content, so that other regions reject it."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(16)
        self.work = Work()
        self.clear()

    def clear(self) -> None:
        self.work.clear()
        self.completions: Collection[StoredCompletion] = Collection(_missing("No chat completion found with id '{}'."))
        self.responses: Collection[StoredResponse] = Collection(_missing("Response with id '{}' not found."))
        self.conversations: Collection[Conversation] = Collection(_missing("Conversation with id '{}' not found."))
        self.files: Collection[Kept] = Collection(_missing("No such File object: {}", "id"))
        self.uploads: Collection[PendingUpload] = Collection(_missing("No such Upload object: {}", "id"))
        self.batches: Collection[Plain] = Collection(_missing("No batch found with id '{}'."))
        self.vector_stores: Collection[VectorStore] = Collection(_missing("Vector store with id [{}] not found."))
        self.containers: Collection[Container] = Collection(_missing("Container with id '{}' not found."))
        self.claude_containers: Collection[Plain] = Collection(_missing("Container not found: {}"))
        self.claude_files: Collection[Kept] = Collection(_missing("File not found: {}"))
        self.message_batches: Collection[MessageBatch] = Collection(_missing("Message Batch {} not found."))
        self.assistants: Collection[Plain] = Collection(_missing("No assistant found with id '{}'."))
        self.threads: Collection[Thread] = Collection(_missing("No thread found with id '{}'."))
        self.fine_tuning: Collection[FineTuningJob] = Collection(
            _missing("Could not find fine tune: {}", "fine_tune_id", "fine_tune_not_found")
        )
        self.permissions: dict[str, list[Object]] = {}
        self.realtime_calls: set[str] = set()
        self.evaluations: Collection[Evaluation] = Collection(_missing("Eval with id '{}' not found."))


def _missing(message: str, param: str | None = None, code: str | None = None) -> Callable[[str], errors.AzureError]:
    return lambda object_id: errors.object_not_found(message.format(object_id), param, code)
