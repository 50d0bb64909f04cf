"""Homes: the backend for each consumer's new objects, in the row `home-{consumer}` of the table `affinity`."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Self

import msgspec

from shared.affinity._rows import partition_of, time_limit
from shared.concurrency import LruDict
from shared.config.document import Api, Backend, Configuration
from shared.routing import rendezvous
from shared.storage import Properties, Row, Store, names
from shared.storage.conditional import update
from shared.types import Call, Consumer

_CACHED = 10_000  # consumers


_OF_OPENAI: tuple[Api, ...] = ("azure", "openai")


class Homes:
    """Chooses a home once; it stays as long as it is in the configuration, serves the model, and lies where the
    consumer's calls may go."""

    def __init__(self, store: Store, configuration: Configuration, usable: Callable[[Backend], bool]) -> None:
        self._table = store.table(names.AFFINITY)
        self._usable = usable
        self._homes = LruDict[str, dict[str, str]](_CACHED)
        self._configure(configuration)

    def with_configuration(self, configuration: Configuration) -> Self:
        """These homes for another configuration, with the same memory."""
        other = copy.copy(self)
        other._configure(configuration)
        return other

    def _configure(self, configuration: Configuration) -> None:
        self._backends = {backend.name: backend for backend in configuration.backends}
        self._aliases = configuration.aliases
        self._claudes = configuration.anthropic

    async def of(self, consumer: Consumer, model: str, call: Call | None = None) -> str:
        """Return the backend for a consumer's new objects that are used with this model; "": with no model. `call`:
        the one that makes them; None: one of OpenAI's API.

        Raises `StoreUnavailable`.
        """
        want = _want(model, call)
        homes, key = self._homes.get(consumer.id, {}), want.key
        if self._fits(homes.get(key, ""), want, consumer):
            return homes[key]
        if not any(self._fits(name, want, consumer) for name in self._backends):
            return self._choose(consumer, want, {})  # routing has the error for it: nothing is made there

        def choose(row: Row | None) -> Properties | None:
            nonlocal homes
            homes = _decode(row.properties.get("homes")) if row is not None else {}
            if self._fits(homes.get(key, ""), want, consumer):
                return None
            homes[key] = self._choose(consumer, want, homes)
            return {"homes": msgspec.json.encode(homes).decode()}

        async with time_limit():
            await update(self._table, partition_of(consumer.id), f"home-{consumer.id}", choose)
        self._homes[consumer.id] = homes
        return homes[key]

    def serves(self, name: str, model: str) -> bool:
        """Return True if a backend of this name is in the configuration, and serves the model, if one is given."""
        backend = self._backends.get(name)
        return backend is not None and (not model or model in backend.models)

    def _fits(self, name: str, want: "_Want", consumer: Consumer) -> bool:
        return self._takes(name, want) and consumer.access.allows(self._backends[name], want.model)

    def _takes(self, name: str, want: "_Want") -> bool:
        """True if a backend of this name has the API of such objects, and serves the models that are used with them."""
        if not all(self.serves(name, model) for model in (want.model, *want.others)):
            return False
        backend = self._backends[name]
        return backend.api in want.apis and (not want.claude or not self._claudes.isdisjoint(backend.models))

    def _choose(self, consumer: Consumer, want: "_Want", homes: Mapping[str, str]) -> str:
        """Choose a home that the consumer has already for other models; else the backend that serves most of the models
        it may use, by weight among equals. All instances choose alike."""
        model = want.model
        serving = [backend for backend in self._backends.values() if self._takes(backend.name, want)]
        serving = serving or [backend for backend in self._backends.values() if self.serves(backend.name, model)]
        serving = [backend for backend in serving if consumer.access.allows(backend, model)] or serving
        names = {backend.name for backend in serving}
        if homes.get("") in names:
            return homes[""]
        if common := Counter(home for home in homes.values() if home in names).most_common(1):
            return common[0][0]
        allowed = consumer.models and {self._aliases.get(name, name) for name in consumer.models}

        def rank(backend: Backend) -> tuple[bool, int, bool, int, float]:
            useful = len(backend.models.keys() & allowed if allowed is not None else backend.models)
            score = rendezvous.score(consumer.id.encode(), backend.name, backend.weight)
            some_paths = backend.api != "azure"  # it cannot serve calls of dated paths to the object
            return (not self._usable(backend), 0 if model else -useful, some_paths, backend.priority, -score)

        return min(serving, key=rank).name


class _Want(msgspec.Struct, frozen=True):
    """The backends that may be a home: those with one of these APIs that serve the models. `claude`: any of Anthropic's
    API. `key`: of the home in its row."""

    model: str
    others: tuple[str, ...]
    apis: tuple[Api, ...]
    claude: bool
    key: str


def _want(model: str, call: Call | None) -> _Want:
    if call is None or call.operation.format == "openai":
        return _Want(model, (), _OF_OPENAI, claude=False, key=model)
    apis = call.operation.apis
    others = tuple(call.batch.models.values()) if call.batch is not None else ()
    # A Foundry resource keeps files, but no batches; and a home for no model is that of OpenAI's objects.
    key = model if model and "azure" in apis else f"{'+'.join(apis)}:{model}"
    return _Want(model, others, apis, claude=True, key=key)


def _decode(text: object) -> dict[str, str]:
    try:
        return msgspec.json.decode(str(text), type=dict[str, str])
    except msgspec.DecodeError:
        return {}
