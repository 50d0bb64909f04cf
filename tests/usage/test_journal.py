"""Rows that wait on the local disk: no answer waits for the table, no crash of the process loses a row, and none brings
back an estimate that was corrected."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.types import Attempt, Outcome, Target, Usage
from shared.usage import _group_commit, _journal, _read_back
from shared.usage._row_files import Group, RowFiles
from shared.usage.ledger import Entry
from shared.usage.overflow import Overflow
from tests.harness.patience import PATIENCE, eventually
from tests.usage.test_ledger import BACKEND, House, files_in

MOST = 10_000_000
ROW: dict[str, Any] = {"s_key": "c1", "e_input": 5, "e_served": "m" * 40}


def house_on(directory: Path, most: int = MOST) -> House:
    return House("recorded", Overflow(directory, "here", most))


def partition_of(house: House) -> str:
    return next(iter(house.store.rows("usage202609")), "")


async def kill(house: House) -> None:
    """The state after `kill -9`: what was in memory is gone, and so are the locks; the files are not."""
    read_back = house.ledger.rows._read_back
    assert read_back is not None
    for task in (house.ledger.rows._writer, read_back._task):
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
    if house.ledger.rows._lingering is not None:
        house.ledger.rows._lingering.cancel()
    await asyncio.to_thread(int)  # the one thread ends what it has begun
    overflow = house.ledger.rows._overflow
    assert overflow is not None
    for file in overflow.files._open:
        os.close(file.descriptor)
    overflow.files._open.clear()


async def heir_of(house: House, directory: Path) -> House:
    """The next process on this disk and these tables, after it has read back what it found."""
    heir = house_on(directory)
    heir.store = house.store
    heir.store.dead, heir.store.seconds = False, 0.0
    heir.ledger = type(heir.ledger)(heir.store, "recorded", Overflow(directory, "here", MOST), lambda: heir.time)
    await heir.ledger.rows.recover()
    await eventually(lambda: not files_in(directory))
    return heir


async def test_a_recorded_answer_does_not_wait_for_the_table_and_is_whole_after_a_crash(tmp_path: Path) -> None:
    house = house_on(tmp_path)
    house.store.seconds = 30.0
    entries = [house.open() for _ in range(3)]
    assert all(house.close(entry).done() for entry in entries)
    house.open("01UNANSWERED")
    await asyncio.sleep(0)
    await kill(house)
    assert await house.rows() == {}
    rows = await (await heir_of(house, tmp_path)).rows()
    assert rows.keys() == {entry.request_id for entry in entries}
    assert all(row.items() >= {"s_key": "c1", "s_ts": 1_790_000_000.0, "e_output": 7}.items() for row in rows.values())


async def test_a_row_stays_on_disk_while_those_before_it_are_written(tmp_path: Path) -> None:
    house = house_on(tmp_path)
    house.store.seconds = 0.2
    house.close(house.open("01FIRST"))
    await asyncio.sleep(0.02)
    house.close(house.open("01SECOND"))
    await eventually(lambda: "01FIRST" in house.store.rows("usage202609").get(partition_of(house), {}))
    await kill(house)
    assert (await house.rows()).keys() == {"01FIRST"}
    rows = await (await heir_of(house, tmp_path)).rows()
    assert [row["e_status"] for row in rows.values()] == [200, 200]


async def test_an_estimate_that_is_read_back_does_not_replace_what_was_counted_meanwhile(tmp_path: Path) -> None:
    house = house_on(tmp_path)
    house.store.dead = True
    entry = house.open()
    house.close(entry, usage=Usage(5, 7, estimated=True))
    house.time += 5.0
    await eventually(lambda: house.ledger.rows.spilled == 1)
    house.ledger.correct(entry, Outcome(status=200, usage=Usage(6, 9, estimated=True)))
    overflow = house.ledger.rows._overflow
    assert overflow is not None
    with overflow._lock:  # the disk is slower than the table
        house.store.dead = False
        house.ledger.rows.at_once()
        async with asyncio.timeout(PATIENCE):
            while not await house.rows():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await eventually(
        lambda: not house.ledger.rows.backlog and not any(file.stat().st_size for file in files_in(tmp_path))
    )
    row = (await house.rows())[entry.request_id]
    assert (row["e_input"], row["e_output"], row["e_counted"], row["e_status"], row["s_key"]) == (6, 9, True, 200, "c1")
    await house.ledger.close()


async def test_the_end_of_a_call_that_is_read_back_does_not_replace_how_its_work_ended(tmp_path: Path) -> None:
    house = house_on(tmp_path)
    entry = house.open()
    house.ledger.end(entry, Outcome(status=200, served_by=Target(BACKEND, "m", "d")), goes_on=True)
    await asyncio.sleep(0)
    await kill(house)
    await house.ledger.complete(entry.place, [(Usage(9, 3), Target(BACKEND, "m", "e"))], 499)
    row = (await (await heir_of(house, tmp_path)).rows())[entry.request_id]
    assert (row["e_input"], row["e_output"], row["e_status"], row["e_deployment"]) == (9, 3, 499, "e")
    assert row["e_ended"] == "complete"  # which only the disk had


async def test_the_journal_is_empty_once_its_rows_are_in_the_table_and_gone_after_an_orderly_end(
    tmp_path: Path,
) -> None:
    house = house_on(tmp_path)
    for _ in range(3):
        for _ in range(100):
            house.close(house.open())
        assert sum(file.stat().st_size for file in files_in(tmp_path)) > 10_000
        house.ledger.rows.at_once()
        await eventually(lambda: house.ledger.rows.backlog == 0)
        assert [file.stat().st_size for file in files_in(tmp_path)] == [0]
    house.close(house.open())
    await house.ledger.close()
    assert files_in(tmp_path) == []
    assert len(await house.rows()) == 301


async def test_under_steady_load_the_journal_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_journal, "_LONGEST_FILE", 20_000)
    monkeypatch.setattr(_group_commit, "_PACE", 0.0)
    house = house_on(tmp_path)
    house.store.seconds = 0.001
    largest = 0
    for number in range(3000):
        house.close(house.open())
        if number % 20 == 0:  # some rows wait at any time
            await asyncio.sleep(0.001)
            largest = max(largest, sum(file.stat().st_size for file in files_in(tmp_path)))
    assert 0 < largest < 300_000  # all rows together take more than a million
    await house.ledger.close()
    assert len(await house.rows()) == 3000


async def test_an_answer_waits_for_the_table_if_the_journal_has_reached_its_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = house_on(tmp_path, most=2_000)
    house.store.seconds = 0.2
    answered = [house.close(house.open()) for _ in range(20)]
    assert 0 < sum(row.done() for row in answered) < 20
    assert sum(file.stat().st_size for file in files_in(tmp_path)) <= 2_000
    await asyncio.wait_for(asyncio.gather(*answered), PATIENCE)
    assert caplog.text.count("answers wait for the table") == 1
    house.time += 60.0
    house.ledger.rows.at_once()
    await eventually(lambda: house.ledger.rows.backlog == 0)
    assert house.close(house.open()).done()
    assert "keeps usage rows again" in caplog.text
    await house.ledger.close()
    assert len(await house.rows()) == 21


@contextlib.contextmanager
def disk_full_after(length: int) -> Iterator[None]:
    """The system writes no file beyond this length, and cuts a write that would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_an_answer_waits_for_the_table_if_the_disk_is_full_and_what_fits_is_kept_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = house_on(tmp_path)
    house.store.seconds = 30.0
    with disk_full_after(1_500):  # in the middle of a row
        entries = [house.open() for _ in range(20)]
        answered = [house.close(entry).done() for entry in entries]
    assert 0 < sum(answered) < 20
    assert caplog.text.count("answers wait for the table") == 1
    await kill(house)
    rows = await (await heir_of(house, tmp_path)).rows()
    assert rows.keys() == {entry.request_id for entry, done in zip(entries, answered, strict=True) if done}
    assert "cannot read" not in caplog.text


async def test_a_slow_disk_is_left_alone_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, now = RowFiles(tmp_path, "here", MOST), iter([0.0, 0.5, 4.0, 7.0, 7.1, 8.0, 8.1])
    journal = _journal.Journal(files, lambda: next(now))
    group = Group("usage202609", "2026092110-03", {"a": ROW})
    assert [journal.keep(group) is not None for _ in range(4)] == [True, False, True, True]
    assert caplog.text.count("took 0.5 s for a row") == 1


async def test_processes_on_one_disk_leave_each_others_rows_alone(tmp_path: Path) -> None:
    dead, living = house_on(tmp_path), house_on(tmp_path)
    for house in (dead, living):
        house.store.seconds = 30.0
        assert house.close(house.open()).done()
        await asyncio.sleep(0)
    await kill(dead)
    assert len(files_in(tmp_path)) == 2
    heir = House("committed", Overflow(tmp_path, "here", MOST))
    await heir.ledger.rows.recover()
    await eventually(lambda: len(files_in(tmp_path)) == 1)
    assert len(await heir.rows()) == 1
    await kill(living)
    assert len(await (await heir_of(living, tmp_path)).rows()) == 1


STEPS = ("open", "close", "close", "correct", "charge", "commit", "outage", "wait", "wait")


@given(st.lists(st.sampled_from(STEPS), max_size=60), st.integers(0, 10_000), st.booleans())
@settings(max_examples=100, deadline=None)
def test_after_a_crash_at_any_instant_every_answer_is_on_record_as_it_was_last(
    steps: list[str], seed: int, half: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_journal, "_LONGEST_FILE", 1_500)
        for pause in ("_FIRST_PAUSE", "_LONGEST_PAUSE", "_PACE"):
            patch.setattr(_group_commit, pause, 0.001)
            patch.setattr(_read_back, pause, 0.001)
        asyncio.run(crash_after(steps, random.Random(seed), Path(directory), half=half))


async def crash_after(steps: list[str], chance: random.Random, directory: Path, *, half: bool) -> None:
    """Estimates are corrected, the table fails and recovers, files are emptied and deleted; at the end the process is
    killed, perhaps within a write (`half`)."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    house, target = house_on(directory), Target(BACKEND, "m", "d")
    house.store.seconds = chance.choice([0.0, 0.001])  # rows arrive during a write as well
    opened: list[Entry] = []
    estimated: list[Entry] = []
    known: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps):
        if step == "open":
            opened.append(house.open(f"01CALL{number:03}"))
        elif step == "close" and opened:
            entry = opened.pop(chance.randrange(len(opened)))
            outcome = Outcome(status=200, usage=Usage(5, number, estimated=True), served_by=target)
            assert house.ledger.end(entry, outcome).done()
            known[entry.request_id] = {"e_input": 5, "e_output": number}
            estimated.append(entry)
        elif step == "charge" and estimated:
            house.ledger.charge(estimated[-1], number, Attempt(target, 200, "cut", 1.0, "try", Usage(number)))
            known[f"{estimated[-1].request_id}-{number}"] = {"e_input": number, "e_role": "try"}
        elif step == "correct" and estimated:
            entry = estimated.pop(chance.randrange(len(estimated)))
            house.ledger.correct(entry, Outcome(status=200, usage=Usage(6, 1000 + number, estimated=True)))
            known[entry.request_id] = {"e_input": 6, "e_output": 1000 + number, "e_counted": True}
        elif step == "commit":
            house.ledger.rows.at_once()
        elif step == "wait":
            await asyncio.sleep(chance.uniform(0.0, 0.003))
        elif step == "outage":
            house.store.dead = not house.store.dead
            house.time += 3.0
        await asyncio.sleep(0)
    await kill(house)
    if half and (files := files_in(directory)):
        with sorted(files)[-1].open("ab") as file:
            file.write(b"\x80\x00\x00\x00half of a record")
    rows = await (await heir_of(house, directory)).rows()
    for key, values in known.items():
        assert rows[key].items() >= values.items()
        assert "s_key" in rows[key]
