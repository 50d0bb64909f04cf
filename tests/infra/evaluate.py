"""The value of a Bicep variable or of what a module is given: as much of the language as main.bicep needs for those.

The expressions are parsed here and not by tree-sitter, whose grammar reads `a ?? b.c` as `(a ?? b).c`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.infra.bicep import Template, text

UNIQUE = "a" * 13  # uniqueString makes thirteen characters
type Scope = Callable[[str], Any]
type Thunk = Callable[[Scope], Any]
_TOKEN = re.compile(r"\s*(?://[^\n]*\s*)*(?:(\d+)|(\w+)|(=>|\?\?|\.\?|[=!]=|&&|\|\||[!?:.,()\[\]{}]))")
_LEVELS = (("??",), ("||",), ("&&",), ("==", "!="))


def _contains(whole: Any, part: Any) -> bool:
    return part in whole


def _map(items: list[Any], function: Callable[..., Any]) -> list[Any]:
    return [function(item, index) for index, item in enumerate(items)]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "concat": lambda *lists: [item for given in lists for item in given],
    "contains": _contains,
    "empty": lambda value: not value,
    "filter": lambda items, function: [item for index, item in enumerate(items) if function(item, index)],
    "last": lambda items: items[-1],
    "map": _map,
    "split": lambda value, separator: value.split(separator),
    "string": lambda value: json.dumps(value, separators=(",", ":")),
    "subscription": lambda: {"id": "/subscriptions/00000000-0000-0000-0000-000000000000"},
    "take": lambda value, count: value[:count],
    "toObject": lambda items, key, value: {key(item, 0): value(item, 0) for item in items},
    "union": lambda *objects: {name: value for given in objects for name, value in given.items()},
    "uniqueString": lambda *_: UNIQUE,
}


def variable(template: Template, name: str, parameters: Mapping[str, Any]) -> Any:
    """Raises KeyError for a parameter without a value and ValueError for an expression that is not understood."""
    return scope_of(template, parameters)(name)


def scope_of(template: Template, parameters: Mapping[str, Any]) -> Scope:
    """What gives the values of a file's names. `parameters` may have those of its imports and modules, too."""
    variables, declared = template.of("var"), template.of("param")

    def scope(wanted: str) -> Any:
        if wanted in parameters:
            return parameters[wanted]
        if wanted in variables:
            return expression(text(variables[wanted].value))(scope)
        if declared[wanted].required:
            raise KeyError(wanted)
        return expression(text(declared[wanted].value))(scope)

    return scope


def expression(source: str) -> Thunk:
    """The expression as a function of what gives the values of its names."""
    return _Parser(source).whole()


class _Parser:
    """Makes a function of an expression, which is then given the values of names."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def whole(self) -> Thunk:
        thunk = self._ternary()
        if self._source[self._at :].strip():
            raise ValueError(f"not understood: {self._source[self._at :][:40]}")
        return thunk

    def _peek(self) -> str:
        found = _TOKEN.match(self._source, self._at)
        return found[found.lastindex or 0] if found else ""

    def _next(self) -> str:
        found = _TOKEN.match(self._source, self._at)
        if found is None:
            raise ValueError(f"not understood: {self._source[self._at :][:40]}")
        self._at = found.end()
        return found[found.lastindex or 0]

    def _take(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._next()
        return True

    def _expect(self, token: str) -> None:
        if (found := self._next()) != token:
            raise ValueError(f"expected {token}, got {found}")

    def _ternary(self) -> Thunk:
        condition = self._binary(0)
        if not self._take("?"):
            return condition
        yes = self._ternary()
        self._expect(":")
        no = self._ternary()
        return lambda scope: yes(scope) if condition(scope) else no(scope)

    def _binary(self, level: int) -> Thunk:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while (operator := self._peek()) in _LEVELS[level]:
            self._next()
            left = _joined(operator, left, self._binary(level + 1))
        return left

    def _unary(self) -> Thunk:
        if self._take("!"):
            inner = self._unary()
            return lambda scope: not inner(scope)
        return self._postfix(self._primary())

    def _postfix(self, thunk: Thunk) -> Thunk:
        while (token := self._peek()) in (".", ".?", "["):
            self._next()
            if token == "[":
                index = self._ternary()
                self._expect("]")
                thunk = _indexed(thunk, index)
            else:
                thunk = _member(thunk, self._next(), optional=token == ".?")
        return thunk

    def _primary(self) -> Thunk:
        rest = self._source[self._at :].lstrip()
        if rest.startswith("'"):
            self._at = len(self._source) - len(rest)
            return self._string()
        if found := re.match(r"(?:(\w+)|\(([\w\s,]+)\))\s*=>", rest):
            self._at = len(self._source) - len(rest) + found.end()
            return _function(re.findall(r"\w+", found[1] or found[2]), self._ternary())
        token = self._next()
        if token == "(":
            inner = self._ternary()
            self._expect(")")
            return inner
        if token == "[":
            items = self._list("]")
            return lambda scope: [item(scope) for item in items]
        if token == "{":
            return self._object()
        if token.isdigit() or token in ("true", "false", "null"):
            value = json.loads(token)
            return lambda _: value
        if self._take("("):
            arguments, called = self._list(")"), _FUNCTIONS[token]
            return lambda scope: called(*(argument(scope) for argument in arguments))
        return lambda scope: scope(token)

    def _list(self, end: str) -> list[Thunk]:
        items: list[Thunk] = []
        while not self._take(end):
            items.append(self._ternary())
            self._take(",")
        return items

    def _object(self) -> Thunk:
        pairs: list[tuple[Thunk, Thunk]] = []
        while not self._take("}"):
            pairs.append((self._key(), self._ternary()))
            self._take(",")
        return lambda scope: {key(scope): value(scope) for key, value in pairs}

    def _key(self) -> Thunk:
        rest = self._source[self._at :].lstrip()
        if rest.startswith("'"):
            self._at = len(self._source) - len(rest)
            key = self._string()
        else:
            key = _constant(self._next())
        self._expect(":")
        return key

    def _string(self) -> Thunk:
        parts: list[Thunk] = []
        self._at += 1
        while (sign := self._source[self._at]) != "'":
            if self._source.startswith("${", self._at):
                self._at += 2
                parts.append(self._ternary())
                self._expect("}")
            else:
                self._at += 1 if sign != "\\" else 2
                parts.append(_constant(self._source[self._at - 1]))
        self._at += 1
        return lambda scope: "".join(str(part(scope)) for part in parts)


def _constant(value: Any) -> Thunk:
    return lambda _: value


def _member(thunk: Thunk, name: str, *, optional: bool) -> Thunk:
    return lambda scope: thunk(scope).get(name) if optional else thunk(scope)[name]


def _indexed(thunk: Thunk, index: Thunk) -> Thunk:
    return lambda scope: thunk(scope)[index(scope)]


def _function(names: list[str], body: Thunk) -> Thunk:
    def made(scope: Scope) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            values = dict(zip(names, arguments, strict=False))
            return body(lambda name: values[name] if name in values else scope(name))

        return called

    return made


def _joined(operator: str, left: Thunk, right: Thunk) -> Thunk:
    match operator:
        case "??":
            return lambda scope: value if (value := left(scope)) is not None else right(scope)
        case "||":
            return lambda scope: left(scope) or right(scope)
        case "&&":
            return lambda scope: left(scope) and right(scope)
        case "==":
            return lambda scope: left(scope) == right(scope)
    return lambda scope: left(scope) != right(scope)
