"""The route table: every operation of the API."""

from collections import defaultdict

from simulator.api import (
    assistants,
    audio,
    batches,
    completions,
    containers,
    conversations,
    evaluations,
    files,
    fine_tuning,
    images,
    message_batches,
    message_files,
    messages,
    models,
    moderations,
    realtime,
    responses,
    runs,
    stored_completions,
    threads,
    uploads,
    vector_stores,
)
from simulator.call import Route

FAMILIES = (
    completions,
    messages,
    message_batches,
    message_files,
    stored_completions,
    responses,
    conversations,
    files,
    uploads,
    batches,
    vector_stores,
    containers,
    images,
    audio,
    models,
    fine_tuning,
    evaluations,
    moderations,
    realtime,
    assistants,
    threads,
    runs,
)

ROUTES: tuple[Route, ...] = tuple(route for family in FAMILIES for route in family.ROUTES)

_EXACT = {(route.method, route.path): route for route in ROUTES}
_BY_LENGTH: dict[tuple[str, int], list[tuple[Route, list[str]]]] = defaultdict(list)
for _route in ROUTES:
    if "{id}" in _route.path:
        _BY_LENGTH[_route.method, _route.path.count("/")].append((_route, _route.path.split("/")))


def find_route(method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
    """The route of a path without the surface's prefix, and the ids in the path."""
    if (exact := _EXACT.get((method, path))) is not None:
        return exact, ()
    segments = path.split("/")
    for route, pattern in _BY_LENGTH.get((method, len(segments) - 1), ()):
        ids = []
        for expected, segment in zip(pattern, segments, strict=True):
            if expected == "{id}" and segment:
                ids.append(segment)
            elif expected != segment:
                break
        else:
            return route, tuple(ids)
    return None
