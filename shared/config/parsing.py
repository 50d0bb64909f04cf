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
    try:
        configuration = msgspec.convert(data, Configuration)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source}: {_schema_complaint(data, str(error))}") from None
    if lines := [f"{source}: {complaint}" for complaint in complaints(configuration)]:
        raise ConfigurationError("\n".join(lines))
    return configuration


def _schema_complaint(data: Any, error: str) -> str:
    """msgspec's error with the path first, and the value that is out of range last."""
    message, _, path = error.partition(" - at `$")
    place, value = "", data
    for field, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        key = field or (_culprit(data, value, error) if index == "..." else int(index))
        place += f"[{key}]" if isinstance(key, int) else f".{key}"
        value = value[key]
    got = f", got {value!r}" if re.match(r"Expected `\w+` [<>]", message) else ""
    return f"{place.lstrip('.') or 'document'}: {message}{got}"


def _culprit(data: Any, mapping: dict[str, Any], error: str) -> str:
    """The key of the entry that causes an error. msgspec leaves it out, so each entry is tried alone."""
    entries = dict(mapping)
    for key, value in entries.items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(data, Configuration)
        except msgspec.ValidationError as again:
            if str(again) == error:
                return key
    raise AssertionError(error)
