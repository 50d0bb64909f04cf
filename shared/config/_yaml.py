"""Reads YAML or JSON, and rejects duplicate keys."""

import json
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_MOST_MERGED = 20  # mappings by one `<<`
_MOST_PAIRS = 200_000  # of all mappings: few lines of references could make them a giant


def read(document: str) -> object:
    """Parse JSON, or else YAML, which does not allow JSON's tabs. Raises `yaml.YAMLError` and `ValueError`."""
    if document.lstrip().startswith("{"):
        try:
            return json.loads(document, object_pairs_hook=_without_duplicates)
        except json.JSONDecodeError:
            pass  # YAML in braces, or invalid as both
    return yaml.load(document, _Loader)  # noqa: S506 — a safe loader that also rejects duplicate keys


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key, value in pairs:
        if key in mapping:
            raise ConstructorError(None, None, f"duplicate key {key!r}", None)
        mapping[key] = value
    return mapping


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without duplicate keys, and without dates: 2024-10-21 is an API version."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own name and shape
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    _pairs = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            merges = key.tag == "tag:yaml.org,2002:merge" and isinstance(value, yaml.SequenceNode)
            if merges and len(value.value) > _MOST_MERGED:
                raise ConstructorError(None, None, f"merges more than {_MOST_MERGED} mappings", key.start_mark)
        super().flatten_mapping(node)
        self._pairs += len(node.value)
        if self._pairs > _MOST_PAIRS:
            raise ConstructorError(None, None, f"has more than {_MOST_PAIRS} keys", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        self.flatten_mapping(node)
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(None, None, f"the key {key!r} is not a string", key_node.start_mark)
            if key in seen:
                raise ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def position(error: yaml.YAMLError) -> str:
    """The line, the column and the problem of an error."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or error}"
