"""Parses the configuration document. Errors name the path of the key."""

import re
from typing import Any

import msgspec
import yaml

from shared.config._validation import complaints
from shared.config._yaml import position, read
from shared.config.document import Configuration
from shared.errors import ConfigurationError


def parse(document: str, source: str) -> Configuration:
    """The configuration in a YAML or JSON text; `source` is its name in errors. Raises `ConfigurationError`."""
    try:
        data = read(document)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: is neither YAML nor JSON: {position(error)}") from None
    except RecursionError:
        raise ConfigurationError(f"{source}: is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: has an unreadable value: {error}") from None
    configuration, lines = _converted(data)
    if configuration is not None:
        lines += complaints(configuration)
    if lines or configuration is None:
        raise ConfigurationError("\n".join(f"{source}: {line}" for line in lines))
    return configuration


def _converted(data: Any) -> tuple[Configuration | None, list[str]]:
    """The configuration, and all complaints of its schema: each wrong value is left out, and the rest checked again.
    None if an object lacks what it needs: without it, further checks would mislead."""
    lines: list[str] = []
    left_out: set[tuple[str | int, ...]] = set()
    while True:
        try:
            return msgspec.convert(data, Configuration), lines
        except msgspec.ValidationError as error:
            path, line = _schema_complaint(data, str(error))
            missing = re.match(r"Object missing required field `(\w+)`", str(error))
            if missing is None or (*path, missing[1]) not in left_out:
                lines.append(line)
            if missing is not None or not path or isinstance(path[-1], int):  # later items must keep their numbers
                return None, lines
            left_out.add(path)
            holder = data
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]


def _schema_complaint(data: Any, error: str) -> tuple[tuple[str | int, ...], str]:
    """The path of the wrong value, and msgspec's error with the path first and a number out of range last."""
    message, _, rest = error.partition(" - at `$")
    path: list[str | int] = []
    value = data
    for field, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", rest):
        path.append(field or (_culprit(data, value, error) if index == "..." else int(index)))
        value = value[path[-1]]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".") or "document"
    if unknown := re.match(r"Object contains unknown field `(.*)`", message):
        path.append(unknown[1])
    got = f", got {value!r}" if re.match(r"Expected `\w+` [<>]", message) else ""
    return tuple(path), f"{place}: {message}{got}"


def _culprit(data: Any, mapping: dict[str, Any], error: str) -> str:
    """The key of the entry that causes an error. msgspec does not name it, so each entry is tried alone."""
    entries = dict(mapping)
    try:
        for key, value in entries.items():
            mapping.clear()
            mapping[key] = value
            try:
                msgspec.convert(data, Configuration)
            except msgspec.ValidationError as again:
                if str(again) == error:
                    return key
        raise AssertionError(error)
    finally:
        mapping.clear()
        mapping.update(entries)
