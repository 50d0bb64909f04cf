"""Names and docstrings say what a thing is: rules that no linter has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("shared", "simulator", "local", "tests", "bench", "examples", "infra")
VAGUE = re.compile(r"_*(told|found|wanted)_*", re.IGNORECASE)
MAY_BIND = re.compile(rf"\b{VAGUE.pattern}\b *(?:[=:,)(]|in\b)", re.IGNORECASE)  # few files need parsing
DOCSTRING = re.compile(r'^ *"""(\w+)', re.MULTILINE)
QUESTIONS = {"What", "Whether", "How", "Who", "Whose", "Whom", "Where", "Why"}


def sources() -> Iterator[tuple[str, str]]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if "node_modules" not in file.parts]
    for file in (*files, ROOT / "function_app.py"):
        yield str(file.relative_to(ROOT)), file.read_text()


def bound(node: ast.AST) -> str:
    """The name that a node gives to something, or ""."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
    return ""


def test_a_name_says_what_it_holds_instead_of_how_it_came() -> None:
    suspects = [(file, ast.parse(text)) for file, text in sources() if MAY_BIND.search(text)]
    vague = [(file, name) for file, tree in suspects for node in ast.walk(tree) if VAGUE.fullmatch(name := bound(node))]
    assert vague == []


def test_a_docstring_opens_with_a_noun_or_an_imperative() -> None:
    openings = [(file, word) for file, text in sources() for word in DOCSTRING.findall(text)]
    assert len(openings) > 3_000
    assert [(file, word) for file, word in openings if word in QUESTIONS] == []
