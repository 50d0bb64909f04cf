"""The simulated code interpreter: tables, their numbers, charts as real PNG files, and the calls of functions."""

import contextlib
import json
import sqlite3
import statistics
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from simulator.interpreter import analysis, functions, tables
from simulator.interpreter.canvas import Canvas
from simulator.interpreter.tables import Table

FILE = Path(__file__).resolve().parents[2] / "examples" / "wind_power.csv"
COLUMNS = ("time", "turbine", "wind_speed_ms", "power_kw", "temperature_c")
OBJECTS: Any = {"type": "array", "items": {"type": "object"}}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "create_table", "parameters": {"properties": {"name": {"type": "string"}, "columns": OBJECTS}}},
    {"name": "query", "parameters": {"properties": {"sql": {"type": "string"}}}},
]


@pytest.fixture(scope="module")
def table() -> Table:
    wind_power = tables.read_table("wind_power.csv", FILE.read_bytes())
    assert wind_power is not None
    return wind_power


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """The width, the height and the rows of a PNG, each behind the byte of its filter. Checks every chunk."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (length,), name = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + data),)
        chunks[name], at = data, at + 12 + length
    width, height, *about = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert about == [8, 2, 0, 0, 0]
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (1 + 3 * width)
    return width, height, rows


def test_a_canvas_becomes_a_png_with_its_pixels() -> None:
    canvas = Canvas(4, 3)
    canvas.rectangle(1, 1, 2, 9, (1, 2, 3))  # beyond the lower end
    _, _, rows = pixels(canvas.png())
    white, blue = b"\xff\xff\xff", b"\x01\x02\x03"
    assert rows == b"\0" + white * 4 + (b"\0" + white + blue * 2 + white) * 2


def test_a_table_has_columns_of_numbers_times_and_text(table: Table) -> None:
    assert [(column.name, column.kind) for column in table.columns] == list(
        zip(COLUMNS, ("time", "text", "number", "number", "number"), strict=True)
    )
    assert (table.rows, table.name) == (168, "wind_power")
    semicolons = tables.read_table("a.csv", b"\xef\xbb\xbfname;n\nx;1\n;\ny;2.5\nz\n")
    assert semicolons is not None
    assert semicolons.columns[1].numbers == [1.0, None, 2.5]


@pytest.mark.parametrize(
    "data", [b"", b"a,b\n", b"no table", b"\x89PNG\0,", b"a,b\n1\n", b"a,b\n" + b"1,2\n" * 1_500_000]
)
def test_what_is_no_table_is_none(data: bytes) -> None:
    assert tables.read_table("a.csv", data) is None


def test_a_description_has_the_numbers_of_the_table(table: Table) -> None:
    finding = analysis.find("What is in this file?", [table])
    assert finding is not None
    power = [number for number in table.columns[3].numbers if number is not None]
    assert f"power_kw: {statistics.fmean(power):.2f} on average, {min(power):g} to {max(power):g}." in finding.text
    line = next(line for line in finding.logs.splitlines() if line.strip().startswith("power_kw "))
    assert line.split()[:3] == ["power_kw", "168", f"{statistics.fmean(power):.6g}"]
    assert "wind_speed_ms goes with power_kw (correlation 0.95)" in finding.text
    assert finding.files == ()
    saved = analysis.find("Save a summary as a CSV", [table])
    assert saved is not None
    assert saved.files[0].data.decode().splitlines()[0] == "column,count,mean,std,min,25%,50%,75%,max"


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Draw a chart of power over time.", "power_kw_line.png"),
        ("Plot a histogram of the wind speed", "wind_speed_ms_histogram.png"),
        ("Draw the power against the wind speed", "power_kw_scatter.png"),
        ("A bar chart of power by turbine, please", "power_kw_bar.png"),
        ("請畫出 power 的折線圖", "power_kw_line.png"),
    ],
)
def test_a_chart_is_a_png_that_shows_something(table: Table, question: str, name: str) -> None:
    finding = analysis.find(question, [table])
    assert finding is not None
    (picture,) = finding.files
    assert (picture.name, picture.is_image) == (name, True)
    width, height, rows = pixels(picture.data)
    blue = sum(rows[at : at + 3] == b"\x1f\x77\xb4" for at in range(1, len(rows) - 3))
    assert (width, height) == (800, 480)
    assert blue > 300
    assert f"'/mnt/data/{name}'" in finding.code


def test_another_table_has_another_chart(table: Table) -> None:
    other = tables.read_table("b.csv", b"x,y\n1,1\n2,4\n3,9\n")
    flat = tables.read_table("c.csv", b"x,y\n1,5\n2,5\n")
    assert other is not None
    assert flat is not None
    drawn = [analysis.find("plot y against x", [one]) for one in (table, other, flat)]
    assert len({finding.files[0].data for finding in drawn if finding is not None}) == 3


@pytest.mark.parametrize("question", ["Hello", "simulate_output_tokens=3", ""])
def test_a_question_about_something_else_is_left_to_the_model(table: Table, question: str) -> None:
    assert analysis.find(question, [table]) is None
    assert analysis.find("Plot it", []) is None


@pytest.mark.parametrize(
    ("question", "where"),
    [
        ("Query the table: what is the average power?", lambda wind, power: statistics.fmean(power)),
        ("Query it with SQL: how many rows have a wind speed above 10?", lambda wind, power: sum(w > 10 for w in wind)),
        ("From the table, the total power?", lambda wind, power: sum(power)),
        (
            "Query the table: the average power where the wind speed is at least 10",
            lambda wind, power: statistics.fmean(p for w, p in zip(wind, power, strict=True) if w >= 10),
        ),
    ],
)
def test_functions_create_a_table_and_query_it(table: Table, question: str, where: Any) -> None:
    create = functions.call_for("Create a table for this data.", FUNCTIONS, [table])
    assert create is not None
    arguments = json.loads(create.arguments)
    assert create.name == "create_table"
    columns = ", ".join(f"{column['name']} {column['type']}" for column in arguments["columns"])
    query = functions.call_for(question, FUNCTIONS, [table])
    assert query is not None
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE {arguments['name']} ({columns})")
        rows = list(zip(*(column.cells for column in table.columns), strict=True))
        database.executemany(f"INSERT INTO {arguments['name']} VALUES (?, ?, ?, ?, ?)", rows)  # noqa: S608
        ((answer,),) = database.execute(json.loads(query.arguments)["sql"])
    wind, power = (list(map(float, table.columns[place].cells)) for place in (2, 3))
    assert answer == pytest.approx(where(wind, power))


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("Query: when was the highest power?", "SELECT * FROM wind_power ORDER BY power_kw DESC LIMIT 1"),
        (
            "Query the average power by turbine",
            "SELECT turbine, AVG(power_kw) FROM wind_power GROUP BY turbine ORDER BY turbine",
        ),
        ("Show me the table", "SELECT * FROM wind_power LIMIT 5"),
    ],
)
def test_a_statement_follows_the_question(table: Table, question: str, sql: str) -> None:
    assert functions.selection(question, table) == sql


def test_a_function_that_does_not_fit_is_not_called(table: Table) -> None:
    assert functions.call_for("What is it?", FUNCTIONS, [table]) is None
    assert functions.call_for("Create a table", [{"name": "tide"}], [table]) is None
    assert functions.call_for("Create a table", FUNCTIONS, []) is None
    whole = functions.call_for("Make a table", [{"name": "load", "parameters": {"properties": {"sql": {}}}}], [table])
    assert whole is not None
    assert json.loads(whole.arguments)["sql"].startswith("CREATE TABLE wind_power (time TEXT, turbine TEXT, ")
