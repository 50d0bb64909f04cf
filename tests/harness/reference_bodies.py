"""Bodies that name an object at one place."""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.azure_openai import references
from shared.azure_openai.reference_paths import Shape
from shared.types import Reference


def in_body(body: bytes, operation: str) -> tuple[Reference, ...]:
    """The objects that a body names."""
    return references.in_request(body, operation)[0]


def places(shape: Shape) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths of a shape, each with the kind of object that is named there."""
    for key, place in shape.items():
        for part in place if isinstance(place, tuple) else (place,):
            if isinstance(part, str):
                yield (key,), part
            else:
                yield from (((key, *path), kind) for path, kind in places(part))


def planted(
    path: tuple[str, ...], value: str, beside: Mapping[str, Any] | None = None, *, in_lists: bool = False
) -> dict[str, Any]:
    """A body with a value at a path, and other fields in the object that holds it."""
    key, *rest = path
    key = "anything" if key == "*" else key
    inner: Any = planted(tuple(rest), value, beside, in_lists=in_lists) if rest else value
    made = {key: [inner] if in_lists else inner}
    return made if rest else {**(beside or {}), **made}
