"""The locations of objects that this process has seen."""

from shared.affinity._rows import Location
from shared.azure_openai.references import ITEMS
from shared.concurrency import LruDict
from shared.types import Reference

_CACHED = 20_000  # objects, and as many items; about 400 bytes each

type _Cache = LruDict[tuple[str, str], Location]


class LocationMemory:
    """One per process. Items are apart, as in the table: backends report items whose ids callers have chosen, and such
    an item must not pass for an object or for another consumer's item."""

    def __init__(self) -> None:
        self._objects: _Cache = LruDict(_CACHED)  # by kind and id
        self._items: _Cache = LruDict(_CACHED)  # by consumer and id

    def get(self, reference: Reference, consumer: str) -> Location | None:
        """Return the location of an object, or of an item of this consumer."""
        cache, key = self._cache_of(reference, consumer)
        if (location := cache.get(key)) is not None:
            cache.move_to_end(key)
        return location

    def put(self, reference: Reference, location: Location) -> None:
        cache, key = self._cache_of(reference, location.consumer)
        cache[key] = location

    def has_item(self, consumer: str, item: str) -> bool:
        return (consumer, item) in self._items

    def _cache_of(self, reference: Reference, consumer: str) -> tuple[_Cache, tuple[str, str]]:
        if reference.kind in ITEMS:
            return self._items, (consumer, reference.id)
        return self._objects, (reference.kind, reference.id)
