"""The documents tell the truth: links and paths resolve, commands and error codes are those of the code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from shared import errors
from shared.cli.app import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]
TEXTS = [
    *PAGES,
    *(ROOT / name for name in ("Dockerfile", "Makefile", "azure.yaml", "compose.yaml", "gateway.sample.yaml")),
    *ROOT.glob("deploy/**/*.yaml"),
    *ROOT.glob("infra/**/*.bicep"),
    *ROOT.glob(".github/workflows/*.yml"),
]
FOLDERS = "bench|deploy|docs|examples|infra|local|shared|simulator|tests"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        assert anchor not in names, f"{relative(page)} has two headings #{anchor}"
        names.add(anchor)
    return names


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("text", TEXTS, ids=relative)
def test_every_path_that_a_document_names_exists(text: Path) -> None:
    named = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/(?:[\w.-]+/)*[\w.-]*[\w-]+\.[a-z]+\b", text.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("text", TEXTS, ids=relative)
def test_every_path_below_shared_that_a_document_names_exists(text: Path) -> None:
    packages = "|".join(init.parent.name for init in ROOT.glob("shared/*/__init__.py"))
    inside = rf"(?<![\w./-])(?:{packages})/(?:[\w*-]+/)*(?:[\w*-]+\.(?:py|js|json)\b|(?=`))"
    alone = r"`(\w+\.py)`" if text.name == "CONTRIBUTING.md" else "(?!)"
    named = re.findall(inside, text.read_text()) + re.findall(alone, text.read_text())
    assert [path for path in named if not any((*ROOT.glob(f"shared/{path}"), *ROOT.glob(path)))] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_make_command_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"(?:^|`)make ([a-z][a-z -]*[a-z])", page.read_text(), re.M)
    assert {word for words in named for word in words.split()} <= targets


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind `tollgate` in the code of a page, in its blocks and in its lines."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^```sh$(.*?)^```$", text, re.M | re.S))
    lines = re.findall(r"(?:^|=\S+ )\.venv/bin/tollgate (.*)$", blocks, re.M)
    lines += re.findall(r"`(?:\.venv/bin/)?tollgate ([^`]+)`", prose(page))
    yield from (shlex.split(line, comments=True) for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_of_a_page_is_one_of_the_command_line(page: Path) -> None:
    for words in commands(page):
        command = typer.main.get_command(cli)
        for word in words:
            if isinstance(command, TyperGroup) and not word.startswith("-"):
                assert word in command.commands, words
                command = command.commands[word]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= {*options, "--help", "--version"}, words


def codes(kind: type[errors.GatewayError]) -> set[str]:
    return {kind.code}.union(*(codes(one) for one in kind.__subclasses__()))


def test_every_error_code_is_explained() -> None:
    guide = (ROOT / "docs" / "troubleshoot.md").read_text()
    known = codes(errors.GatewayError)
    assert len(known) > 20
    assert [code for code in sorted(known) if f"`{code}`" not in guide] == []


def test_a_release_in_the_changelog_has_each_kind_of_change_once_and_in_order() -> None:
    order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]  # of Keep a Changelog
    _, *releases = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert [release.partition("\n")[0] for release in releases if "Unreleased" in release] in ([], ["[Unreleased]"])
    for release in releases:
        kinds = re.findall(r"^### (.+)$", release, re.M)
        assert kinds == [kind for kind in order if kind in kinds], release.partition("\n")[0]


# --- The README in other languages ------------------------------------------------------------------------------------

TRANSLATIONS = {"README.zh-TW.md": re.compile(r"[\u4e00-\u9fff]")}  # name -> a character of its script


def sections(page: Path) -> list[tuple[int, str]]:
    """The sections of a page with the depth of their headings; code blocks are no headings."""
    parts: list[tuple[int, list[str]]] = []
    code = False
    for line in page.read_text().splitlines():
        code ^= line.startswith("```")
        heading = re.match(r"(#+) ", line) if not code else None
        if heading:
            parts.append((len(heading[1]), []))
        else:
            parts[-1][1].append(line)
    return [(depth, "\n".join(lines)) for depth, lines in parts]


def blocks(section: str) -> list[str]:
    """The blocks of code, without the comments of commands."""
    matches = re.findall(r"^```(\w*)$\n(.*?)^```$", section, re.M | re.S)
    return [re.sub(r" +#.*$", "", code, flags=re.M) if language == "sh" else code for language, code in matches]


def without_code(section: str) -> str:
    return re.sub(r"^```.*?^```$", "", section, flags=re.M | re.S)


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_translated_readme_has_what_the_readme_has(name: str) -> None:
    """The same sections with the same commands, links, pictures, tables, code words and figures."""
    page, script = ROOT / name, TRANSLATIONS[name]
    original, translated = sections(ROOT / "README.md"), sections(page)
    assert [depth for depth, _ in translated] == [depth for depth, _ in original]
    for place, ((_, ours), (_, theirs)) in enumerate(zip(original, translated, strict=True)):
        assert blocks(theirs) == blocks(ours), place
        mine, other = without_code(ours), without_code(theirs)
        for what in (r"\]\(([^)\s]+)\)", r"`([^`]+)`", r"\d[\d,.]*\d|\d"):
            actual, expected = sorted(re.findall(what, other)), sorted(re.findall(what, mine))
            if what.startswith(r"\]"):
                actual, expected = ([one for one in links if "README" not in one] for links in (actual, expected))
            assert actual == expected, (place, what)
        rows = [line.count("|") for line in other.splitlines() if line.startswith("|")]
        assert rows == [line.count("|") for line in mine.splitlines() if line.startswith("|")], place
        assert other.count("\n* ") == mine.count("\n* "), place
        assert len(script.findall(other)) > len(mine) / 8 or not mine.strip(), place
    assert f"]({name})" in (ROOT / "README.md").read_text()
    assert "](README.md)" in page.read_text()
