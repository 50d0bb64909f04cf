"""What leaves the repository: the package of the function app and the image, laid out in a folder as they will run."""

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pathspec import GitIgnoreSpec

from tests.infra.bicep import ROOT

# Without the virtual environment: what is not in the layout is not there.
PYTHON = getattr(sys, "_base_executable", sys.executable)


def kept(ignore: str) -> Iterator[str]:
    """Files of the repository that an ignore file leaves, as paths below its root."""
    spec = GitIgnoreSpec.from_lines((ROOT / ignore).read_text().splitlines())
    for folder, folders, files in os.walk(ROOT):
        base = Path(folder).relative_to(ROOT)
        if base == Path():  # never looked into: large, and no ignore file may lack them
            folders[:] = [name for name in folders if name not in (".git", ".venv", ".local", ".hypothesis")]
        yield from (path for path in ((base / name).as_posix() for name in files) if not spec.match_file(path))


def copy(paths: Iterable[str], target: Path) -> None:
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target / path)


def pinned() -> list[str]:
    return re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.M)


def link_packages(names: Iterable[str], target: Path) -> list[Path]:
    """The installed files of some distributions, linked into a folder as `pip install --target` would place them."""
    linked: list[Path] = []
    for name in names:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # a marker keeps it from this platform
            continue
        for file in found.files or ():
            if file.parts[0] == ".." or "__pycache__" in file.parts:
                continue
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(Path(str(found.locate_file(file))).resolve())
                linked.append(place)
    return linked


def compressed(paths: Iterable[Path]) -> int:
    """Bytes in a zip file, about."""
    return sum(len(zlib.compress(path.read_bytes(), 1)) for path in paths)


def instruction(stage: str, word: str) -> list[str]:
    """The arguments of the last instruction of that name in a stage of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch(rf"FROM \S+ AS {stage}", line))
    found: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith("FROM "):
            break
        if line.startswith(word + " "):
            found = json.loads(line[line.index("[") :]) if "[" in line else line.split()[1:]
    return found
