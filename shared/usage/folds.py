"""The sums of an hour, a day or a month: lines of counts, added and bounded. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, attrgetter, sub
from typing import Any

import msgspec

from shared.token_classes import TokenCounts
from shared.usage.durations import Durations

NOBODY = "-"  # a dimension without a value: a call that reached no backend, a consumer without a team
OTHERS = "*"  # the sum of the names beyond `MOST_NAMES`
MOST_NAMES = 200
MOST_USERS = 1000  # of a key
REFUSED = "refused"  # the role of calls that were refused before they were on record


Rank = tuple[int, int]


class Dimensions(msgspec.Struct, frozen=True, order=True):
    """The dimensions of a line. `backend`, `region` and `deployment` are `-` if no backend was reached, other names
    if they are unknown. `model` is the caller's name, `served` the backend's. `role` is `served`, that of another
    charged attempt (`types.Role`), or `refused`, the only one with a `code`: that of the error. `context` is `long` for
    calls whose size of input changes their prices (`types.long_context`).

    `user` has separate folds beside those of all calls: instances of versions before a dimension existed take one of
    several lines that differ in it alone. So a new dimension of other folds must separate only lines that are new as
    well."""

    key: str
    model: str
    backend: str
    region: str
    deployment: str = NOBODY
    served: str = NOBODY
    tier: str = "default"
    role: str = "served"
    team: str = NOBODY
    product: str = NOBODY
    system: str = NOBODY
    context: str = "short"
    code: str = NOBODY
    user: str = NOBODY


class Counts(TokenCounts, frozen=True):
    """The sums of a line. `ms` and `ttft` are milliseconds over `timed` and `first_tokens` requests; `sound_ms` is the
    length of audio. `durations` and `first_bytes` are those of the requests that succeeded; hours that an earlier
    version has folded lack them.

    Of the callers' `requests`, `errors` failed, `hung_up` lost their caller, `estimated` have estimated tokens, and
    `empty` got an answer without content, because reasoning took all their tokens.
    Separate lines have `refused` calls, which are not requests, and `charges`, attempts that did not answer a caller.
    """

    requests: int = 0
    ends: int = 0
    estimated: int = 0
    errors: int = 0
    attempts: int = 0
    ms: int = 0
    timed: int = 0
    ttft: int = 0
    first_tokens: int = 0
    durations: Durations = Durations()
    first_bytes: Durations = Durations()
    images: int = 0
    sound_ms: int = 0
    characters: int = 0
    hung_up: int = 0
    charges: int = 0
    web_searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    refused: int = 0
    empty: int = 0

    @property
    def seconds(self) -> float:
        return self.sound_ms / 1000


Lines = dict[Dimensions, Counts]


class Fold(msgspec.Struct, frozen=True):
    rank: Rank
    lines: Lines


def added[C: TokenCounts](one: C, other: C) -> C:
    """Add all numbers of two counts."""
    return type(one)(*map(add, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))


def add_lines(parts: Iterable[Lines]) -> Lines:
    sums: Lines = {}
    for lines in parts:
        for dimensions, counts in lines.items():
            total = sums.get(dimensions)
            sums[dimensions] = counts if total is None else added(total, counts)
    return sums


def combine(folds: Sequence[Fold], bounded: Callable[[Lines], Lines]) -> Fold:
    """Add the folds of the parts of a period. `bounded`: the function that bounds their lines."""
    rank = (sum(fold.rank[0] for fold in folds), sum(fold.rank[1] for fold in folds))
    return Fold(rank, bounded(add_lines(fold.lines for fold in folds)))


def bounded(lines: Lines) -> Lines:
    """Keep the `MOST_NAMES` pairs of product and system with the most tokens per key, and as many of model and served
    model; add up the rest as one.

    Callers and backends choose these names: a new one in every call would make a fold as long as its rows."""
    lines = _bounded(lines, MOST_NAMES, ("product", "system"), ((OTHERS, OTHERS),))
    return _bounded(lines, MOST_NAMES, ("model", "served"), ((OTHERS, OTHERS),))


def bounded_users(lines: Lines) -> Lines:
    """Keep the `MOST_USERS` users with the most tokens per key; add up the rest as one."""
    return _bounded(lines, MOST_USERS, ("user",), (NOBODY, OTHERS))


def _bounded(lines: Lines, most: int, dimensions: tuple[str, ...], free: tuple[object, ...]) -> Lines:
    """Keep the names in these dimensions with the most tokens per key. `free`: names that do not count, and stay."""
    names_of = attrgetter(*dimensions)
    tokens: dict[str, dict[Any, int]] = {}
    for line, counts in lines.items():
        if (names := names_of(line)) not in free:
            own = tokens.setdefault(line.key, {})
            own[names] = own.get(names, 0) + counts.input_tokens + counts.output_tokens
    kept = {
        key: {*free, *sorted(own, key=lambda names: (-own[names], names))[:most]}
        for key, own in tokens.items()
        if len(own) > most
    }
    if not kept:
        return lines
    others = dict.fromkeys(dimensions, OTHERS)

    def place(line: Dimensions) -> Dimensions:
        known = kept.get(line.key)
        return line if known is None or names_of(line) in known else msgspec.structs.replace(line, **others)

    return add_lines({place(line): counts} for line, counts in lines.items())


def bounded_by_user(lines: Lines) -> Lines:
    """Bound the lines of a fold of users."""
    return bounded_users(bounded(lines))


def with_users(lines: Lines, users: Lines) -> Lines:
    """Split the lines of a fold by user, by the lines of the fold of users. The sums stay: what no user took is
    left to nobody, and what the lines do not have (yet) is left out."""
    left, by_user = dict(lines), Lines()
    for line, counts in users.items():
        for whole in _places(line):
            rest = _less(left[whole], counts) if whole in left else None
            if rest is not None:
                left[whole] = rest
                own = msgspec.structs.replace(whole, user=line.user)
                by_user[own] = added(by_user[own], counts) if own in by_user else counts
                break
    return {line: counts for line, counts in left.items() if counts != Counts() or line not in lines} | by_user


def _places(line: Dimensions) -> Iterator[Dimensions]:
    """The lines of a fold of all calls that may have what a user's line has: those folds are bounded by themselves."""
    replace = msgspec.structs.replace
    whole = replace(line, user=NOBODY)
    yield whole
    yield replace(whole, product=OTHERS, system=OTHERS)
    yield replace(whole, model=OTHERS, served=OTHERS)
    yield replace(whole, product=OTHERS, system=OTHERS, model=OTHERS, served=OTHERS)


def _less(whole: Counts, part: Counts) -> Counts | None:
    """The difference; None if a part is larger than the whole. Durations stay as far as the whole has them."""
    numbers = [*map(sub, msgspec.structs.astuple(whole), msgspec.structs.astuple(part))]
    return Counts(*numbers) if all(n >= 0 for n in numbers if isinstance(n, int)) else None
