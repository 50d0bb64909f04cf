"""Reads YAML or JSON, and rejects duplicate keys."""

import json
from typing import Any

import yaml


def read(document: str) -> object:
    """JSON as JSON, since YAML knows no tabs; anything else as YAML."""
    if document.lstrip().startswith("{"):
        try:
            return json.loads(document, object_pairs_hook=_without_doubles)
        except json.JSONDecodeError:
            pass  # YAML in braces, or wrong as both
    return yaml.load(document, _Loader)  # noqa: S506 — a safe loader that also refuses keys given twice


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", None)
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """YAML without its silent last-one-wins for a key given twice, and without dates: 2024-10-21 is an API version."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own name and shape
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        self.flatten_mapping(node)
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or error}"
