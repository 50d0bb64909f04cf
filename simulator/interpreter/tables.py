"""Tables of CSV files: columns of numbers, of times and of text."""

import csv
import io
import re
import statistics
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

MOST_BYTES = 5_000_000
_MOST_ROWS = 100_000
_DELIMITERS = ",;\t|"

ColumnKind = Literal["number", "time", "text"]


class Column(msgspec.Struct, frozen=True):
    """`numbers`: those of a column of numbers, None where a cell is empty."""

    name: str
    kind: ColumnKind
    cells: list[str]
    numbers: list[float | None] = []

    @property
    def known(self) -> list[float]:
        return [number for number in self.numbers if number is not None]


class Table(msgspec.Struct, frozen=True):
    filename: str
    columns: list[Column]

    @property
    def rows(self) -> int:
        return len(self.columns[0].cells)

    @property
    def name(self) -> str:
        """A name for SQL."""
        stem = re.sub(r"\W+", "_", self.filename.rpartition("/")[2].rpartition(".")[0]).strip("_").lower()
        return stem if stem[:1].isalpha() else f"t_{stem}"

    def of(self, kind: ColumnKind) -> list[Column]:
        return [column for column in self.columns if column.kind == kind]


def read_table(filename: str, data: bytes) -> Table | None:
    """The table in a file; None if it holds none: a header, and at least one row of the same length."""
    if len(data) > MOST_BYTES or b"\0" in data:
        return None
    text = data.decode("utf-8-sig", "replace")
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        return None
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row][: _MOST_ROWS + 1]
    except csv.Error:
        return None
    if len(rows) < 2:
        return None
    header, *body = rows
    body = [row for row in body if len(row) == len(header)]
    if not body:
        return None
    cells = zip(*body, strict=True)
    return Table(filename, [_column(name.strip(), list(column)) for name, column in zip(header, cells, strict=True)])


def _column(name: str, cells: list[str]) -> Column:
    cells = [cell.strip() for cell in cells]
    filled = [cell for cell in cells if cell]
    if filled and all(_number(cell) is not None for cell in filled):
        return Column(name, "number", cells, [_number(cell) for cell in cells])
    return Column(name, "time" if filled and all(map(_is_time, filled)) else "text", cells)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither infinite nor NaN


def _is_time(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def averaged(table: Table, group: Column, columns: Iterable[Column]) -> Table:
    """A row for each value of `group`, with the means of columns of numbers."""
    names = sorted(set(group.cells))
    made = [Column(group.name, group.kind, names)]
    for column in columns:
        of_name: dict[str, list[float]] = {name: [] for name in names}
        for name, number in zip(group.cells, column.numbers, strict=True):
            if number is not None:
                of_name[name].append(number)
        means = [statistics.fmean(numbers) if numbers else None for numbers in of_name.values()]
        made.append(Column(column.name, "number", [str(mean) for mean in means], list(means)))
    return Table(table.filename, made)


def mentioned(question: str, columns: Iterable[Column]) -> list[tuple[int, Column]]:
    """The columns that a question names, in its order, each with its place: by the whole name, or without its unit."""
    text, mentions = question.lower(), list[tuple[int, Column]]()
    for column in columns:
        name = column.name.lower()
        spellings = (
            name,
            name.replace("_", " "),
            *([name.rpartition("_")[0].replace("_", " ")] if "_" in name else []),
        )
        places = [
            match.start()
            for spelling in spellings
            if spelling and (match := re.search(rf"(?<![a-z0-9_]){re.escape(spelling)}(?![a-z0-9])", text))
        ]
        if places:
            mentions.append((min(places), column))
    return sorted(mentions, key=lambda one: one[0])
