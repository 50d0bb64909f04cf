"""Calls of a caller's functions that a question about tables asks for: to create a table, and to query it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .tables import Column, Table, mentioned

_CREATE = re.compile(r"\b(create|make|build|load)\b.*\btable\b|建立.*表|建表", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"\b(query|sql|table|database)\b|查詢|資料表|資料庫", re.IGNORECASE)
_CREATES, _QUERIES = re.compile(r"create|table|load", re.IGNORECASE), re.compile(r"query|sql|select|run", re.IGNORECASE)
_BOUND = re.compile(
    r"(above|over|greater than|more than|at least|>|below|under|less than|at most|<)\s*(-?\d+(?:\.\d+)?)"
)
_HIGHER = ("above", "over", "greater than", "more than", "at least", ">")
_AGGREGATES = (
    (re.compile(r"\b(how many|count|number of)\b|幾|多少筆", re.IGNORECASE), "COUNT"),
    (re.compile(r"\b(average|mean)\b|平均", re.IGNORECASE), "AVG"),
    (re.compile(r"\b(sum|total)\b|總和|合計", re.IGNORECASE), "SUM"),
)
_EXTREMES = (
    (re.compile(r"\b(highest|maximum|max|most|largest|best)\b|最大|最高", re.IGNORECASE), "DESC"),
    (re.compile(r"\b(lowest|minimum|min|least|smallest|worst)\b|最小|最低", re.IGNORECASE), "ASC"),
)
_GROUPED = re.compile(r"\b(?:by|per|for each|grouped by)\s+(?:the\s+)?([a-z_]+)")
_TYPES = {"number": "REAL", "time": "TEXT", "text": "TEXT"}


class FunctionCall(msgspec.Struct, frozen=True):
    """`arguments`: as JSON."""

    name: str
    arguments: str


def call_for(question: str, functions: Sequence[Mapping[str, Any]], tables: Sequence[Table]) -> FunctionCall | None:
    """The call of a function that the question needs; None if it needs none, or none of these fits."""
    if not tables:
        return None
    table = tables[-1]
    if _CREATE.search(question):
        function = _first(functions, _CREATES)
        statement = creation(table)
    elif _QUERY.search(question):
        function = _first(functions, _QUERIES)
        statement = selection(question, table)
    else:
        return None
    if function is None:
        return None
    parameters = (function.get("parameters") or {}).get("properties") or {}
    arguments = {name: _argument(name, schema, table, statement) for name, schema in parameters.items()}
    known = {name: value for name, value in arguments.items() if value is not None}
    return FunctionCall(str(function["name"]), json.dumps(known, ensure_ascii=False))


def _first(functions: Sequence[Mapping[str, Any]], pattern: re.Pattern[str]) -> Mapping[str, Any] | None:
    return next((function for function in functions if pattern.search(str(function.get("name", "")))), None)


def _argument(name: str, schema: Any, table: Table, statement: str) -> Any:
    """The value of a parameter, by its name and type; None if nothing is known for it."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    name = name.lower()
    if "column" in name:
        items = schema.get("items") or {} if isinstance(schema, dict) else {}
        if kind == "object":
            return {column.name: _TYPES[column.kind] for column in table.columns}
        if items.get("type") == "object":
            return [{"name": column.name, "type": _TYPES[column.kind]} for column in table.columns]
        return [f"{quoted(column.name)} {_TYPES[column.kind]}" for column in table.columns]
    if any(word in name for word in ("sql", "query", "statement")):
        return statement
    if "file" in name or "path" in name:
        return table.filename
    return table.name if "table" in name or name == "name" else None


def creation(table: Table) -> str:
    columns = ", ".join(f"{quoted(column.name)} {_TYPES[column.kind]}" for column in table.columns)
    return f"CREATE TABLE {table.name} ({columns})"


def selection(question: str, table: Table) -> str:
    """The statement that answers a question: an aggregate, an extreme, or the first rows; grouped and bounded."""
    text = question.lower()
    named = mentioned(question, table.columns)
    where, bounded = _where(text, named)
    numbers = [column for _, column in named if column.kind == "number" and column is not bounded]
    measured = (numbers or [bounded] if bounded else numbers or table.of("number"))[:1]
    aggregate = next((name for pattern, name in _AGGREGATES if pattern.search(question)), "")
    if aggregate:
        target = "*" if aggregate == "COUNT" or not measured else quoted(measured[0].name)
        if (group := _group(text, table)) is not None:
            by = quoted(group.name)
            return _select(f"{by}, {aggregate}({target})", table, where, f"GROUP BY {by} ORDER BY {by}")
        return _select(f"{aggregate}({target})", table, where)
    order = next((way for pattern, way in _EXTREMES if pattern.search(question)), "")
    if order and measured:
        return _select("*", table, where, f"ORDER BY {quoted(measured[0].name)} {order} LIMIT 1")
    return _select("*", table, where, "LIMIT 5")


def _select(what: str, table: Table, *rest: str) -> str:
    return " ".join(filter(None, ("SELECT", what, "FROM", table.name, *rest)))


def _where(text: str, named: Sequence[tuple[int, Column]]) -> tuple[str, Column | None]:
    """The condition of a bound, and the column it is on: the number that was named last before it."""
    bound = _BOUND.search(text)
    if bound is None:
        return "", None
    before = [column for place, column in named if place < bound.start() and column.kind == "number"]
    if not before:
        return "", None
    sign = ">" if bound[1] in _HIGHER else "<"
    sign += "=" if bound[1] in ("at least", "at most") else ""
    return f"WHERE {quoted(before[-1].name)} {sign} {bound[2]}", before[-1]


def _group(text: str, table: Table) -> Column | None:
    match = _GROUPED.search(text)
    return next((column for column in table.columns if match and column.name.lower() == match[1]), None)


def quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else '"' + name.replace('"', '""') + '"'
