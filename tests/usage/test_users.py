"""Usage by the users behind a key: bounded, and with the same sums as without them."""

from hypothesis import given
from hypothesis import strategies as st

from shared.billing import report
from shared.billing.charges import Tariff
from shared.config.document import Configuration
from shared.storage import Properties
from shared.usage import aggregates, folds, hours
from shared.usage._hour_fold import HourFold
from shared.usage.folds import NOBODY, OTHERS, Counts, Dimensions, Lines
from shared.usage.rollup import roll_up
from tests.harness.memory_store import MemoryStore

NOW = 1_790_000_000.0
HOUR = hours.hour_of(NOW)


def row(user: str, tokens: int, key: str = "c", **more: str) -> Properties:
    base: dict[str, str | int | float] = {"s_key": key, "s_model": "m", "s_ts": NOW, "e_status": 200, "e_input": tokens}
    return base | ({"s_user": user} if user else {}) | more


async def put(store: MemoryStore, hour: int, rows: list[Properties]) -> None:
    table = store.table(hours.raw_table(hour))
    for start in range(0, len(rows), 100):
        batch = {f"{hour:06d}{start + i:020d}": one for i, one in enumerate(rows[start : start + 100])}
        await table.merge(f"{hours.label(hour)}-00", batch)


async def by_user(store: MemoryStore, **query: str) -> dict[str, tuple[int, int]]:
    given = {"by": "user", "since": "2026-09-01"} | query
    asked = report.parse_query(given, store.now())
    usage = await report.report(store, Tariff.of(Configuration(backends=[])), asked)
    total = (usage.total.requests, usage.total.input_tokens)
    lines = {names[1]: (line.requests, line.input_tokens) for names, line in usage.lines.items()}
    assert tuple(map(sum, zip(*lines.values(), strict=True))) == total
    return lines


async def test_users_are_told_apart_before_and_after_the_roll_up() -> None:
    store = MemoryStore(lambda: NOW)
    for hour in (HOUR - 30, HOUR - 1, HOUR):
        await put(store, hour, [row("anna", 5), row("anna", 6), row("ben", 7), row("", 8)])
    expected = {"anna": (6, 33), "ben": (3, 21), NOBODY: (3, 24)}
    assert await by_user(store) == expected
    await roll_up(store)
    assert await by_user(store) == expected
    assert await by_user(store, user="ben") == {"ben": (3, 21)}
    for partition in (hours.hour_partition(HOUR), hours.day_partition(HOUR), hours.month_partition(HOUR)):
        main = await aggregates.read(store.table("usageagg"), partition)
        users = await aggregates.read(store.table("usageagg"), hours.of_users(partition))
        assert main is not None
        assert users is not None
        assert {line.user for line in main.lines} == {NOBODY}  # as earlier versions read them
        assert {line.user for line in users.lines} == {"anna", "ben"}


async def test_without_users_there_are_no_folds_of_them() -> None:
    store = MemoryStore(lambda: NOW)
    await put(store, HOUR, [row("", 8)])
    await roll_up(store)
    assert {partition for partition in store.rows("usageagg") if partition.startswith("u")} == set()


async def test_rows_that_an_earlier_version_folded_are_nobodys() -> None:
    store = MemoryStore(lambda: NOW)
    await put(store, HOUR - 30, [row("anna", 5), row("", 8)])
    await roll_up(store)
    for partition in [partition for partition in store.rows("usageagg") if partition.startswith("u")]:
        del store.rows("usageagg")[partition]
    assert await by_user(store) == {NOBODY: (2, 13)}


async def test_of_more_than_a_thousand_users_of_a_key_the_largest_are_told_apart() -> None:
    store = MemoryStore(lambda: NOW)
    await put(store, HOUR, [row(f"u{number:04d}", number + 1) for number in range(1200)] + [row("x", 1, key="other")])
    for _ in range(2):
        lines = await by_user(store)
        assert len(lines) == 1000 + 1 + 1  # and the other key's, and the rest
        assert lines[OTHERS] == (200, sum(range(1, 201)))
        assert lines["u1199"] == (1, 1200)
        assert lines["x"] == (1, 1)
        await roll_up(store)


def test_a_fold_holds_a_bounded_number_of_lines_whatever_callers_name() -> None:
    fold = HourFold(NOW)
    for number in range(60_000):
        fold.add(row(f"u{number}", 1))
    users = fold.users()
    assert users is not None
    assert len(users.lines) <= 1001
    assert sum(counts.input_tokens for counts in users.lines.values()) == 60_000


NAMES = st.sampled_from(["a", "b", OTHERS, NOBODY])
WHOLE = st.dictionaries(
    st.builds(Dimensions, key=NAMES, model=NAMES, backend=NAMES, region=st.just("r"), product=NAMES),
    st.builds(Counts, requests=st.integers(0, 9), input_tokens=st.integers(0, 99)),
    max_size=8,
)
USERS = st.dictionaries(
    st.builds(Dimensions, key=NAMES, model=NAMES, backend=NAMES, region=st.just("r"), product=NAMES, user=NAMES),
    st.builds(Counts, requests=st.integers(0, 9), input_tokens=st.integers(0, 99)),
    max_size=8,
)


@given(WHOLE, USERS)
def test_telling_users_apart_changes_no_sum(whole: Lines, users: Lines) -> None:
    lines = folds.with_users(whole, {line: counts for line, counts in users.items() if line.user != NOBODY})
    for key in ("a", "b", OTHERS, NOBODY):
        for name in ("requests", "input_tokens"):
            before = sum(getattr(counts, name) for line, counts in whole.items() if line.key == key)
            assert sum(getattr(counts, name) for line, counts in lines.items() if line.key == key) == before
    assert all(counts.requests >= 0 and counts.input_tokens >= 0 for counts in lines.values())
