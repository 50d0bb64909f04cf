"""The tools of the data engineer: a table in SQLite, which a model creates and queries by two functions.

The functions run in the caller's program, not in Azure: the model sees their schemas and their answers alone.
"""

import csv
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("wind_power.csv")  # a made-up week of two turbines
MOST_ROWS = 50
_NAME = re.compile(r"[A-Za-z_]\w*")
_TYPES = ("TEXT", "REAL", "INTEGER")


class Database:
    """A database in memory that holds what `FILE` has. Every answer is JSON; a mistake is an answer, too, so that the
    model can mend it."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._functions: Mapping[str, Callable[..., Any]] = {"create_table": self._create, "query": self._query}

    def call(self, name: str, arguments: str) -> str:
        """Run the function that a model asks for."""
        try:
            return json.dumps(self._functions[name](**json.loads(arguments)), ensure_ascii=False)
        except (KeyError, TypeError, ValueError, sqlite3.Error) as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"})

    def close(self) -> None:
        self._connection.close()

    def _create(self, name: str, columns: list[dict[str, str]]) -> dict[str, Any]:
        names = [column["name"] for column in columns]
        if not all(map(_NAME.fullmatch, [name, *names])) or any(column["type"] not in _TYPES for column in columns):
            raise ValueError(f"expected plain names, and types among {', '.join(_TYPES)}")
        with FILE.open(newline="") as file:
            rows = [[row[column] for column in names] for row in csv.DictReader(file)]
        columns_of_table = ", ".join(f"{column['name']} {column['type']}" for column in columns)
        with self._connection:
            self._connection.execute(f"CREATE TABLE {name} ({columns_of_table})")
            self._connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(names))})", rows)  # noqa: S608
        self._connection.execute("PRAGMA query_only = ON")  # from here on a statement of the model's changes nothing
        return {"table": name, "rows": len(rows)}

    def _query(self, sql: str) -> dict[str, Any]:
        cursor = self._connection.execute(sql)
        return {"columns": [about[0] for about in cursor.description or ()], "rows": cursor.fetchmany(MOST_ROWS)}


_COLUMN = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "type": {"type": "string", "enum": list(_TYPES)}},
    "required": ["name", "type"],
    "additionalProperties": False,
}
FUNCTIONS: tuple[dict[str, Any], ...] = (
    {
        "name": "create_table",
        "description": "Create a table with these columns and fill it from the file.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "columns": {"type": "array", "items": _COLUMN}},
            "required": ["name", "columns"],
            "additionalProperties": False,
        },
    },
    {
        "name": "query",
        "description": "Run a SELECT statement of SQLite on the table.",
        "parameters": {
            "type": "object",
            "properties": {"sql": {"type": "string"}},
            "required": ["sql"],
            "additionalProperties": False,
        },
    },
)
QUESTIONS = (
    "What is in this file?",
    "Draw a chart of the power over time.",
    "Save a summary of it as a CSV.",
    "Create a table for this data.",
    "Query the table: what is the average power by turbine?",
    "Query the table: how many rows have a wind speed above 10?",
)


if __name__ == "__main__":
    database = Database()
    columns = [{"name": "time", "type": "TEXT"}, {"name": "power_kw", "type": "REAL"}]
    print(database.call("create_table", json.dumps({"name": "wind", "columns": columns})))
    print(database.call("query", json.dumps({"sql": "SELECT AVG(power_kw) FROM wind"})))
    print(database.call("query", json.dumps({"sql": "DROP TABLE wind"})))
    database.close()
