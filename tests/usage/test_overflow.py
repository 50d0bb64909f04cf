"""Rows on disk: they are read back after any crash, and only their owner can read them."""

import hashlib
import os
import stat
import struct
import zlib
from pathlib import Path

import pytest

from shared.storage import MAX_BATCH
from shared.usage._row_files import Group
from shared.usage.overflow import Overflow

MOST = 1_000_000


def group(number: int) -> Group:
    return Group(
        "usage202611", f"2026112110-{number:02d}", {f"{number}": {"e_input": number, "e_seconds": 1.5, "e_est": True}}
    )


def everything(overflow: Overflow) -> list[Group]:
    groups = []
    while (group := overflow.next()) is not None:
        groups.append(group)
        overflow.advance()
    return groups


def killed(overflow: Overflow) -> None:
    """The state after `kill -9`: the locks are gone, the files are not."""
    for file in overflow.files._open:
        os.close(file.descriptor)


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.rows"))


def test_groups_come_back_in_order_and_each_until_it_is_written(tmp_path: Path) -> None:
    overflow = Overflow(tmp_path, "a", MOST)
    assert overflow.next() is None
    assert overflow.append([group(1), group(2)]) == 2
    assert overflow.next() == overflow.next() == group(1)
    overflow.advance()
    overflow.append([group(3)])
    assert everything(overflow) == [group(2), group(3)]
    overflow.append([group(4)])
    assert everything(overflow) == [group(4)]
    overflow.close()
    assert files(tmp_path) == []


def test_files_of_a_killed_process_are_taken_over_once_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    dead, living = Overflow(tmp_path, "a", MOST), Overflow(tmp_path, "a", MOST)
    dead.append([group(1), group(2)])
    living.append([group(3)])
    killed(dead)
    heir, late = Overflow(tmp_path, "a", MOST), Overflow(tmp_path, "a", MOST)
    assert heir.adopt()
    assert not late.adopt()
    heir.append([group(4)])
    assert everything(heir) == [group(1), group(2), group(4)]
    assert everything(living) == [group(3)]


def test_each_account_has_its_own_directory(tmp_path: Path) -> None:
    mine = Overflow(tmp_path, "a", MOST)
    mine.append([group(1)])
    mine.close()
    assert not Overflow(tmp_path, "b", MOST).adopt()
    assert Overflow(tmp_path, "a", MOST).adopt()


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_an_incomplete_record_is_logged_and_those_before_it_are_read(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    overflow = Overflow(tmp_path, "a", MOST)
    overflow.append([group(1), group(2)])
    killed(overflow)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-cut])
    heir = Overflow(tmp_path, "a", MOST)
    assert heir.adopt()
    assert everything(heir) == [group(1)]
    assert "cannot read" in caplog.text
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", [0, 3, 5, 20])
def test_a_damaged_record_is_logged_and_not_read(tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    overflow = Overflow(tmp_path, "a", MOST)
    overflow.append([group(1)])
    killed(overflow)
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[place] ^= 0x40
    file.write_bytes(data)
    heir = Overflow(tmp_path, "a", MOST)
    heir.adopt()
    assert everything(heir) == []
    assert f"{len(data)} bytes at the end" in caplog.text


def test_versions_that_share_a_disk_read_each_others_files(tmp_path: Path) -> None:
    """The names and the bytes that every version writes and reads."""
    overflow = Overflow(tmp_path, "a", MOST)
    overflow.append([Group("usage202611", "2026112110-03", {"01A": {"e_input": 7, "e_est": True}})])
    (file,) = files(tmp_path)
    rows = b"\x81\xa301A\x82\xa7e_input\x07\xa5e_est\xc3"
    data = b"\x93\xabusage202611\xad2026112110-03" + rows
    assert file.read_bytes() == struct.pack("<II", len(data), zlib.crc32(data)) + data
    assert file.name.endswith(".rows")
    assert file.parent.name == f"tollgate-{os.getuid()}-{hashlib.sha256(b'a').hexdigest()[:16]}"


def test_rows_of_one_partition_are_read_back_together_up_to_a_transaction_and_the_last_value_holds(
    tmp_path: Path,
) -> None:
    overflow = Overflow(tmp_path, "a", MOST)
    numbers = [*range(60), *range(60), *range(60, 150)]
    overflow.append(
        [Group("usage202611", "2026112110-03", {f"{n}": {"e_input": at}}) for at, n in enumerate(numbers)] + [group(1)]
    )
    first, second, third = everything(overflow)
    assert (len(first.rows), len(second.rows), third) == (MAX_BATCH, 50, group(1))
    assert [first.rows[f"{n}"]["e_input"] for n in (0, 59, 60)] == [60, 119, 120]


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    overflow = Overflow(tmp_path, "a", MOST)
    overflow.append([group(1)])
    (file,) = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
def test_a_directory_that_another_user_may_have_created_is_not_used(
    tmp_path: Path, trap: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = Overflow(tmp_path, "a", MOST).files.directory
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if trap == "open to others":
        directory.mkdir()
        directory.chmod(0o777)
    elif trap == "a link":
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.touch()
    overflow = Overflow(tmp_path, "a", MOST)
    assert not overflow.adopt()
    assert overflow.append([group(1)]) == 0
    assert overflow.append([group(1)]) == 0
    assert caplog.text.count("cannot keep usage rows on disk") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_bound_of_disk_usage_includes_files_of_dead_processes(tmp_path: Path) -> None:
    dead = Overflow(tmp_path, "a", 1000)
    kept = dead.append([group(number) for number in range(100)])
    assert 3 < kept < 20
    killed(dead)
    heir = Overflow(tmp_path, "a", 1000)
    heir.adopt()
    assert heir.append([group(1)]) == 0
    assert everything(heir) == [group(number) for number in range(kept)]
    assert heir.append([group(1)]) == 1
