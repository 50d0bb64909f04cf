"""The resources that Bicep predicts for each way to deploy. Tests read these snapshots without the compiler."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
BICEP = ROOT / "infra" / "bicep"
CASES = sorted(path.stem for path in (BICEP / "tests").glob("*.bicepparam"))
DIGEST = BICEP / "tests" / "sources.sha256"
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"


class Resource(msgspec.Struct, frozen=True):
    """A resource that would be created or changed. `properties` is an expression where it depends on a secret."""

    id: str
    type: str
    name: str
    properties: Any = None
    sku: dict[str, Any] = {}
    tags: dict[str, str] = {}
    kind: str = ""


def resources(case: str, kind: str | None = None) -> list[Resource]:
    """The resources of a case, of one type or of all."""
    predicted = json.loads((BICEP / "tests" / f"{case}.snapshot.json").read_text())["predictedResources"]
    return [msgspec.convert(r, Resource) for r in predicted if kind is None or r["type"] == kind]


def app_settings(case: str) -> dict[str, str]:
    """The settings of the app, each as a template expression: a literal has quotation marks."""
    (settings,) = (r for r in resources(case, "Microsoft.Web/sites/config") if r.name.endswith("/appsettings"))
    union = list(arguments(settings.properties.strip("[]")))
    words = list(arguments(union[-1]))
    return {literal(name): value for name, value in zip(words[::2], words[1::2], strict=True)}


def arguments(call: str) -> Iterator[str]:
    """The arguments of a call in a template expression, such as `union(a, b('x'))`."""
    inner, depth, start = call[call.index("(") + 1 : call.rindex(")")], 0, 0
    for token in re.finditer(r"'(?:[^']|'')*'|[(),]", inner):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if token[0] == "," and depth == 0:
            yield inner[start : token.start()].strip()
            start = token.end()
    yield inner[start:].strip()


def literal(expression: str) -> str:
    """The text of a string in a template expression."""
    return expression[1:-1].replace("''", "'")


def sources() -> list[Path]:
    """The files that the snapshots are made of."""
    return sorted(
        path
        for path in BICEP.rglob("*")
        if path.suffix in (".bicep", ".bicepparam") or path.name in ("workbook.json", "bicepconfig.json")
    )


def digest() -> str:
    """A digest of the sources, by which a stale snapshot is noticed without the compiler."""
    total = hashlib.sha256()
    for path in sources():
        total.update(f"{path.relative_to(BICEP).as_posix()}\n{path.read_text()}\n".encode())
    return total.hexdigest()
