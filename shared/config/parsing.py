"""Parses the configuration document. Errors name the path of the key."""

import bisect
import re
from typing import Any

import msgspec
import yaml

from shared.config._validation import complaints
from shared.config._yaml import position, read
from shared.config.document import Configuration
from shared.errors import Complaint, ConfigurationError

_DEEPEST = 40  # levels; the schema has eight
_MOST_VALUES = 200_000
_MOST_WRONG = 25  # values for each of which the document is converted again


def parse(document: str, source: str) -> Configuration:
    """The configuration in a YAML or JSON text; `source` is its name in errors. Raises `ConfigurationError`."""
    configuration, problems = checked(data_of(document, source))
    if problems or configuration is None:
        raise ConfigurationError(*(complaint._replace(source=source) for complaint in problems))
    return configuration


def data_of(document: str, source: str) -> object:
    """The data in a YAML or JSON text. Raises `ConfigurationError`."""

    def unreadable(problem: str) -> ConfigurationError:
        return ConfigurationError(Complaint("", problem, source))

    try:
        data = read(document)
    except yaml.YAMLError as error:
        raise unreadable(f"is neither YAML nor JSON: {position(error)}") from None
    except RecursionError:
        raise unreadable("is nested too deeply") from None
    except ValueError:  # its text has the value, which may be a secret
        raise unreadable("has a value that is neither text nor a readable number") from None
    if problem := _problem(data):
        raise unreadable(problem)
    return data


def _problem(data: object) -> str:
    """The complaint about data that no JSON document of a sensible size has, "" if there is none. YAML has references,
    with which few lines make a giant, and values of other types."""
    level, values = [data], 0
    for _ in range(_DEEPEST):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict | list) and values + len(inner) + 2 * len(value) > _MOST_VALUES:
                return f"has more than {_MOST_VALUES} values"
            if isinstance(value, dict):
                inner += (*value, *value.values())
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                    return "has text with half a surrogate pair"
            elif not isinstance(value, int | float | None):
                return "has a value that is neither text nor a readable number"
        values += len(inner)
        if not inner:
            return ""
        level = inner
    return "is nested too deeply"


def checked(data: object) -> tuple[Configuration | None, list[Complaint]]:
    """The configuration in the data of a document, which this may change, and all complaints about it. None if it lacks
    what it needs."""
    configuration, problems = _converted(data)
    if configuration is not None:
        problems += complaints(configuration)
    return configuration, problems


def _converted(data: Any) -> tuple[Configuration | None, list[Complaint]]:
    """The configuration, and all complaints of its schema: each wrong value is left out, and the rest checked again.
    None if an object lacks what it needs: without it, further checks would mislead."""
    problems: list[Complaint] = []
    left_out: set[tuple[str | int, ...]] = set()
    while True:
        if len(left_out) >= _MOST_WRONG:
            problems.append(Complaint("document", f"has more than {_MOST_WRONG} wrong values: fix these first"))
            return None, problems
        try:
            return msgspec.convert(data, Configuration), problems
        except msgspec.ValidationError as error:
            path, complaint = _schema_complaint(data, str(error))
            missing = re.match(r"Object missing required field `(\w+)`", str(error))
            if missing is None or (*path, missing[1]) not in left_out:
                problems.append(complaint)
            if missing is not None or not path or isinstance(path[-1], int):  # later items must keep their numbers
                return None, problems
            left_out.add(path)
            holder = data
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]


def _schema_complaint(data: Any, error: str) -> tuple[tuple[str | int, ...], Complaint]:
    """The path of the wrong value, and msgspec's error, with a number out of range last."""
    message, _, rest = error.partition(" - at `$")
    path: list[str | int] = []
    value = data
    for field, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", rest):
        path.append(field or (_culprit(data, value, error) if index == "..." else int(index)))
        value = value[path[-1]]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".") or "document"
    if unknown := re.match(r"Object contains unknown field `(.*)`", message):
        path.append(unknown[1])
    if {"auth", "webhook", "alerts"} & {*path}:
        message = _without_values(message)
    got = f", got {value!r}" if re.match(r"Expected `\w+` [<>]", message) else ""
    return tuple(path), Complaint(place, f"{message}{got}")


def _without_values(message: str) -> str:
    """An error about a place for secrets, without texts of the document that may be one."""
    message = re.sub(r"enum value '.*'", "value, which is not shown", message, flags=re.DOTALL)
    unknown = r"unknown field `(?![a-z_]{1,24}`$).*`"  # longer names, and those with digits, may be secrets
    return re.sub(unknown, "unknown field, which is not shown", message, flags=re.DOTALL)


def _culprit(data: Any, mapping: dict[str, Any], error: str) -> str:
    """The key of the entry that causes an error. msgspec does not name it, but reads in order: it is the last of the
    fewest entries with that error."""
    entries = dict(mapping)
    keys = list(entries)

    def fails(number: int) -> bool:
        mapping.clear()
        mapping.update((key, entries[key]) for key in keys[:number])
        try:
            msgspec.convert(data, Configuration)
        except msgspec.ValidationError as again:
            return str(again) == error
        return False

    try:
        return keys[bisect.bisect_left(range(len(keys)), True, lo=0, key=lambda index: fails(index + 1))]
    finally:
        mapping.clear()
        mapping.update(entries)
