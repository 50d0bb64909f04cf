"""What can be said of Bicep files without their compiler: syntax, names, modules, and resources against their schemas.

A complaint is one line, `FILE:LINE: what is wrong`. The grammar is tree-sitter's; of the language it knows a part (no
spread, no typed variables), so the templates stay inside that.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

ROOT = Path(__file__).resolve().parents[2]
BICEP = ROOT / "infra" / "bicep"
SCHEMAS = Path(__file__).with_name("schemas.json")
_PARSER = Parser(Language(tree_sitter_bicep.language()))
_DECLARATIONS = {
    "parameter_declaration": "param",
    "variable_declaration": "var",
    "resource_declaration": "resource",
    "module_declaration": "module",
    "output_declaration": "output",
    "type_declaration": "type",
}
_FUNCTIONS = frozenset(
    (
        *("cidrSubnet", "concat", "contains", "empty", "environment", "filter", "guid", "items", "last"),
        *("loadTextContent", "map", "replace", "resourceGroup", "resourceId", "split", "string", "subscription"),
        *("subscriptionResourceId", "take", "tenant", "toObject", "union", "uniqueString"),
    )
)
_DEPLOYMENT_KEYS = frozenset(("name", "scope", "parent", "dependsOn", "params"))


class Declaration:
    """A top-level statement. `body` is the object of a resource or module, inside its loop and condition."""

    def __init__(self, kind: str, node: Node, decorators: Mapping[str, str]) -> None:
        names = [child for child in node.named_children if child.type == "identifier"]
        self.kind = kind
        self.node = node
        self.name = text(names[0])
        self.decorators = decorators
        self.value = node.named_children[-1]
        self.target = text(node.named_children[1])[1:-1] if kind in ("resource", "module") else ""
        self.existing = any(child.type == "existing" for child in node.children)
        self.body = next(inner_objects(self.value), None) if self.target else None

    @property
    def required(self) -> bool:
        """Of a parameter: it has no default."""
        return self.kind == "param" and self.value.type == "type"


class Template:
    """One parsed file."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.root = _PARSER.parse(source.encode()).root_node
        self.imports: set[str] = set()
        self.declarations: list[Declaration] = []
        decorators: dict[str, str] = {}
        for node in self.root.named_children:
            if node.type == "decorators":
                calls = [call for call in walk(node) if call.type == "decorator"]
                decorators = dict(text(call)[1:].partition("(")[::2] for call in calls)
            elif node.type == "import_functionality":
                self.imports |= {text(child) for child in node.named_children if child.type == "identifier"}
            elif node.type in _DECLARATIONS:
                self.declarations.append(Declaration(_DECLARATIONS[node.type], node, decorators))
                decorators = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path.name, path.read_text())

    def of(self, kind: str) -> dict[str, Declaration]:
        return {declared.name: declared for declared in self.declarations if declared.kind == kind}

    def resource_types(self) -> set[str]:
        return {declared.target for declared in self.of("resource").values()}

    def at(self, node: Node) -> str:
        return f"{self.name}:{node.start_point.row + 1}"


def body_of(files: Mapping[str, str], file: str, kind: str, name: str) -> dict[str, Node]:
    """Key -> value of a resource's or module's object."""
    body = Template(file, files[file]).of(kind)[name].body
    assert body is not None
    return properties(body)


def text(node: Node) -> str:
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def inner_objects(node: Node) -> Iterator[Node]:
    """The objects that an expression may become: through loops, conditions, arrays and the functions of `map`."""
    if node.type == "object":
        yield node
    elif node.type in ("for_statement", "if_statement", "lambda_expression"):
        yield from inner_objects(node.named_children[-1])
    elif node.type in ("array", "parenthesized_expression"):
        for child in node.named_children:
            yield from inner_objects(child)
    elif node.type == "ternary_expression":
        for child in node.named_children[1:]:
            yield from inner_objects(child)
    elif node.type == "call_expression" and text(node.named_children[0]) in ("map", "concat", "union"):
        for child in node.named_children[1].named_children:
            yield from inner_objects(child)


def properties(node: Node) -> dict[str, Node]:
    """Key -> value of an object. A key with an interpolation is kept as it is written."""
    pairs = [child.named_children for child in node.named_children if child.type == "object_property"]
    return {text(pair[0]).strip("'"): pair[-1] for pair in pairs if len(pair) > 1}


def literal(node: Node) -> str | None:
    """The value of a string without interpolation."""
    if node.type != "string" or any(child.type == "interpolation" for child in node.named_children):
        return None
    return text(node)[1:-1]


def complaints(files: Mapping[str, str], schemas: Mapping[str, Any] | None = None) -> list[str]:
    """All that is wrong with some files (name -> source), which are the whole of a folder."""
    known = json.loads(SCHEMAS.read_text()) if schemas is None else schemas
    templates = {name: Template(name, source) for name, source in files.items()}
    found: list[str] = []
    for template in templates.values():
        if template.root.has_error:
            wrong = next(node for node in walk(template.root) if node.type == "ERROR" or node.is_missing)
            found.append(f"{template.at(wrong)}: does not parse")
            continue
        found += _names(template, templates)
        found += _descriptions(template)
        found += _modules(template, templates)
        for resource in template.of("resource").values():
            found += _resource(template, resource, known)
    return found


def _names(template: Template, templates: Mapping[str, Template]) -> Iterator[str]:
    declared = [d.name for d in template.declarations if d.kind != "output"]
    for name in sorted({name for name in declared if declared.count(name) > 1}):
        yield f"{template.name}: {name} is declared twice"
    shared = {d.name for t in templates.values() for d in t.declarations if "export" in d.decorators}
    for name in sorted(template.imports - shared):
        yield f"{template.name}: {name} is exported by no file"
    outer = set(declared) | template.imports
    uses: list[str] = []
    for declaration in template.declarations:
        scope = outer | set(_locals(declaration.node))
        for node, function in _references(declaration.node):
            uses.append(text(node))
            if text(node) not in (_FUNCTIONS if function else scope):
                yield f"{template.at(node)}: {text(node)} is not defined"
    for kind in ("param", "var", "type"):
        for name, declaration in template.of(kind).items():
            if name not in uses and "export" not in declaration.decorators:
                yield f"{template.at(declaration.node)}: {name} is never used"
    for name in sorted(template.imports - set(uses)):
        yield f"{template.name}: {name} is imported and never used"


def _locals(node: Node) -> Iterator[str]:
    """Names of loops and of functions in place."""
    for inner in walk(node):
        if inner.type == "lambda_expression":
            yield from (text(leaf) for leaf in walk(inner.named_children[0]) if leaf.type == "identifier")
        elif inner.type == "for_statement":
            first = inner.named_children[0]
            yield from (
                text(leaf) for leaf in walk(first) if leaf.type in ("identifier", "loop_variable", "loop_enumerator")
            )


def _references(node: Node) -> Iterator[tuple[Node, bool]]:
    """Identifiers that stand for something, and whether it is a function."""
    for inner in walk(node):
        parent = inner.parent
        if inner.type != "identifier" or parent is None or parent.type == "decorator":
            continue
        if parent == node and node.type in _DECLARATIONS and parent.named_children[0] == inner:
            continue
        if parent.type == "object_property" and parent.named_children[0] == inner:
            continue
        if _in_decorator(inner):
            continue
        yield inner, parent.type == "call_expression" and parent.named_children[0] == inner


def _in_decorator(node: Node) -> bool:
    above = node.parent
    while above is not None:
        if above.type == "decorators":
            return True
        above = above.parent
    return False


def _descriptions(template: Template) -> Iterator[str]:
    for declaration in template.declarations:
        if declaration.kind in ("param", "output", "type") and "description" not in declaration.decorators:
            yield f"{template.at(declaration.node)}: {declaration.kind} {declaration.name} has no description"


def _modules(template: Template, templates: Mapping[str, Template]) -> Iterator[str]:
    modules = template.of("module")
    for module in modules.values():
        at = template.at(module.node)
        called = templates.get(module.target)
        if called is None:
            yield f"{at}: there is no {module.target}"
            continue
        body = properties(module.body) if module.body else {}
        yield from (f"{at}: {key} is no part of a module" for key in body.keys() - _DEPLOYMENT_KEYS)
        given = properties(body["params"]) if "params" in body else {}
        wanted = called.of("param")
        yield from (f"{at}: {module.target} has no parameter {key}" for key in given.keys() - wanted.keys())
        yield from (
            f"{at}: {module.target} needs the parameter {key}"
            for key, parameter in wanted.items()
            if parameter.required and key not in given
        )
        for key in given.keys() & wanted.keys():
            kind, value = wanted[key].node.named_children[1], given[key]
            if (problem := _misfit(text(kind), value)) is not None:
                yield f"{template.at(value)}: {key} of {module.target}: {problem}"
    for node in walk(template.root):
        if node.type != "member_expression" or node.named_children[0].type != "member_expression":
            continue
        owner, part = node.named_children[0].named_children
        name, output = text(owner).partition("[")[0].rstrip("!"), text(node.named_children[-1])
        if text(part) == "outputs" and name in modules and modules[name].target in templates:
            target = modules[name].target
            if output not in templates[target].of("output"):
                yield f"{template.at(node)}: {target} has no output {output}"


def _resource(template: Template, resource: Declaration, schemas: Mapping[str, Any]) -> Iterator[str]:
    schema = schemas.get(resource.target)
    if schema is None:
        yield f"{template.at(resource.node)}: there is no schema of {resource.target}"
    elif resource.body is not None and not resource.existing:
        body = schema["body"] | dict.fromkeys(("parent", "scope", "dependsOn"), "any")
        yield from _object(template, resource.body, body, schema["types"], resource.target)


def _object(template: Template, node: Node, body: dict[str, str], types: dict[str, Any], at: str) -> Iterator[str]:
    given = properties(node)
    for key, kind in body.items():
        if kind.endswith("!") and key not in given:
            yield f"{template.at(node)}: {at} needs {key}"
    for key, value in given.items():
        kind = body.get(key, body.get("*", "")).rstrip("!")
        if not kind:
            yield f"{template.at(value)}: {at} has no property {key} that can be set"
            continue
        element = kind.removesuffix("[]")
        if element in types:
            for item in inner_objects(value):
                yield from _object(template, item, types[element], types, f"{at}.{key}")
        elif (problem := _misfit(kind, value)) is not None:
            yield f"{template.at(value)}: {at}.{key}: {problem}"


def _misfit(kind: str, value: Node) -> str | None:
    """Why a literal is not of a primitive type, or none of the words that are published. A word that only an open list
    (`… | string`) would take is most often a slip, so it counts as one."""
    if value.type == "ternary_expression":
        return next((p for p in (_misfit(kind, v) for v in value.named_children[1:]) if p is not None), None)
    words = [word.strip() for word in kind.split("|")]
    said = literal(value)
    if len(words) > 1 and said is not None and said not in (word.strip("'") for word in words):
        return f"expected {kind}, got {said!r}"
    expected = {"int": "number", "bool": "boolean", "string": "string"}.get(kind)
    if expected and value.type in {"number", "boolean", "string", "object", "array"} - {expected}:
        return f"expected {kind}, got {text(value)}"
    return None


def is_name(pattern: str, template: str, longest: Mapping[str, str]) -> bool:
    """Whether a name with `${…}` in it holds to a pattern when every part of it is as long as it can be."""
    full = re.sub(r"\$\{([^}]+)\}", lambda found: longest[found[1]], template)
    return re.fullmatch(pattern, full) is not None
