"""Parses the configuration document, and rejects what is wrong with the path of the key."""

import msgspec
import yaml

from shared.config._validation import complaints
from shared.config._yaml import position, read
from shared.config.document import Configuration
from shared.errors import ConfigurationError


def parse(document: str, source: str) -> Configuration:
    """The configuration in a YAML or JSON text; `source` names it in complaints."""
    try:
        data = read(document)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: is neither YAML nor JSON: {position(error)}") from None
    except RecursionError:
        raise ConfigurationError(f"{source}: is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: has a value that cannot be read: {error}") from None
    try:
        configuration = msgspec.convert(data, Configuration)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise ConfigurationError(
            f"{source}: {path.rstrip('`').removeprefix('$').lstrip('.') or 'document'}: {message}"
        ) from None
    if lines := [f"{source}: {complaint}" for complaint in complaints(configuration)]:
        raise ConfigurationError("\n".join(lines))
    return configuration
