"""A complaint about what does not fit. Pure."""

from collections.abc import Iterator

from shared.errors import Complaint

SOME = "at least one; leave the key out to allow all"
_UNSHOWN = object()


def expect(fits: object, path: str, expected: str, got: object = _UNSHOWN) -> Iterator[Complaint]:
    """The complaint unless `fits` is true. `got`: the value that is shown."""
    if not fits:
        yield Complaint(path, f"expected {expected}" + (f", got {got!r}" if got is not _UNSHOWN else ""))
