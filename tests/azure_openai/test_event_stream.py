"""Event streams are cut where the standard says."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.azure_openai import event_stream


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_end_at_an_empty_line_of_any_kind(ending: bytes) -> None:
    one, two = b"data: 1" + ending + ending, b"event: x" + ending + b"data: 2" + ending + ending
    assert event_stream.split(one + two + b"data: 3") == ([one, two], b"data: 3")
    assert [event_stream.payload(one), event_stream.payload(two)] == [b"1", b"2"]


# As in the standard, one character after the other: slow if a line is megabytes long.
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


@given(pieces=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: ", b"event: a", b"{}"]), max_size=14))
def test_events_and_their_data_are_found_wherever_lines_end(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    ends = [match.end() for match in EVENT_END.finditer(data)]
    events, rest = event_stream.split(data)
    assert [*events, rest] == [data[start:end] for start, end in itertools.pairwise([0, *ends, len(data)])]
    assert event_stream.ends_event(data) == bool(ends)
    for one in events:
        lines = [line for line in re.split(rb"\r\n|\n|\r", one) if line.startswith(b"data:")]
        assert event_stream.payload(one) == b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def test_a_line_end_of_two_characters_is_no_empty_line() -> None:
    assert event_stream.split(b"data: 1\r\ndata: 2\r\n") == ([], b"data: 1\r\ndata: 2\r\n")
    assert event_stream.payload(b"data: 1\r\ndata: 2\r\n\r\n") == b"1\n2"
