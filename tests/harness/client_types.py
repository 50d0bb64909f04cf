"""The bodies of the API as the types of the official client have them, found in its source."""

import ast
import functools
import importlib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import typing_extensions

from shared.types import Operation

Path_ = tuple[str, ...]  # keys; "*" for any key. Lists are left out: each element counts
_RESOURCES = Path(openai.__file__).parent / "resources"
_BETA = "?beta=true"


def parameters_of(operation: Operation) -> list[Any]:
    """The TypedDicts of an operation's body, those of its beta included. None where the client lacks the operation."""
    path = "/" + re.sub(r"\{\w+\}", "{}", operation.path)
    return [one for known in (path, path + _BETA) for one in _posted().get(known, [])]


def strings(kind: Any) -> Iterator[tuple[Path_, frozenset[str]]]:
    """The paths at which a body of this type has strings or free values, each with the literal `type` of the object
    that holds it."""
    return _strings(kind, (), frozenset(), ())


def members(kind: Any, *path: str) -> Iterator[Any]:
    """The TypedDicts that may stand at a path of a type."""
    if typing_extensions.is_typeddict(kind):
        if not path:
            yield kind
        elif path[0] in (hints := typing.get_type_hints(kind)):
            yield from members(hints[path[0]], *path[1:])
    else:
        for inner in typing.get_args(kind):
            yield from members(inner, *path)


def literal(kind: Any, key: str = "type") -> frozenset[str]:
    """The literal values of a key of a TypedDict."""
    return frozenset(_literals(typing.get_type_hints(kind).get(key)))


def _literals(kind: Any) -> Iterator[str]:
    for inner in typing.get_args(kind):
        if isinstance(inner, str):
            yield inner
        else:
            yield from _literals(inner)


def _strings(
    kind: Any, path: Path_, holder: frozenset[str], above: tuple[Any, ...]
) -> Iterator[tuple[Path_, frozenset[str]]]:
    origin = typing.get_origin(kind)
    if typing_extensions.is_typeddict(kind):
        if kind not in above:  # filters of filters, graders of graders
            for key, inner in typing.get_type_hints(kind).items():
                yield from _strings(inner, (*path, key), literal(kind), (*above, kind))
    elif origin in (typing.Union, types.UnionType):
        for inner in typing.get_args(kind):
            yield from _strings(inner, path, holder, above)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from _strings(typing.get_args(kind)[1], (*path, "*"), holder, above)
    elif isinstance(origin, type):
        for inner in typing.get_args(kind):
            yield from _strings(inner, path, holder, above)
    elif kind in (str, object, typing.Any):
        yield path, holder


@functools.cache
def _posted() -> dict[str, list[Any]]:
    """By path, with `{}` for ids: the types of the bodies that the client posts there."""
    posted: dict[str, list[Any]] = {}
    for file in _RESOURCES.rglob("*.py"):
        words = ("openai", "resources", *file.relative_to(_RESOURCES).with_suffix("").parts)
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                for path in _paths(function):
                    posted.setdefault(path, []).extend(_named_types(function, ".".join(words)))
    return posted


def _paths(function: ast.FunctionDef) -> Iterator[str]:
    for call in ast.walk(function):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        method = next((ast.unparse(one.value) for one in call.keywords if one.arg == "method"), "")
        if call.func.attr != "_post" and method != "'post'":
            continue
        path = call.args[0].args[0] if isinstance(call.args[0], ast.Call) else call.args[0]
        if isinstance(path, ast.Constant) and isinstance(path.value, str):
            yield re.sub(r"\{\w+\}", "{}", path.value)


def _named_types(function: ast.FunctionDef, module: str) -> Iterator[Any]:
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.endswith("_params"):
            named = getattr(getattr(importlib.import_module(module), node.value.id), node.attr)
            if typing_extensions.is_typeddict(named) and "Params" in node.attr:
                yield named
