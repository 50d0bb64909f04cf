"""The package of the function app and the image, laid out in a folder as they will run.

python -m tests.infra.layout      lays out the package and prints its size, by what it is made of (make package-size)
"""

import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pathspec import GitIgnoreSpec

from tests.infra.snapshots import ROOT

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


def pinned(*lists: str) -> list[str]:
    """Names of the distributions in lists such as requirements.txt."""
    text = "".join((ROOT / name).read_text() for name in lists)
    return list(dict.fromkeys(re.findall(r"^([\w.-]+)==", text, re.M)))


def link_packages(names: Iterable[str], target: Path) -> list[Path]:
    """The installed files of some distributions, linked into a folder as `pip install --target` would place them."""
    linked: list[Path] = []
    for name in names:
        try:
            installed_package = distribution(name)
        except PackageNotFoundError:  # a marker keeps it from this platform
            continue
        for file in installed_package.files or ():
            if file.parts[0] == ".." or "__pycache__" in file.parts:
                continue
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(Path(str(installed_package.locate_file(file))).resolve())
                linked.append(place)
    return linked


def compressed(paths: Iterable[Path]) -> int:
    """Bytes in a zip file, about."""
    return sum(len(zlib.compress(path.read_bytes(), 1)) for path in paths)


def instruction(stage: str, word: str) -> list[str]:
    """The arguments of the last instruction of that name in a stage of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch(rf"FROM \S+ AS {stage}", line))
    arguments: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith("FROM "):
            break
        if line.startswith(word + " "):
            arguments = json.loads(line[line.index("[") :]) if "[" in line else line.split()[1:]
    return arguments


def package(folder: Path) -> None:
    """The function app as Azure unpacks it: the files, and their dependencies in .python_packages."""
    copy(kept(".funcignore"), folder)
    link_packages(pinned("requirements.txt"), folder / ".python_packages" / "lib" / "site-packages")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(kept(".funcignore"), folder)
        target = folder / ".python_packages" / "lib" / "site-packages"
        parts = {"the gateway's own files": [path for path in folder.rglob("*") if path.is_file()]}
        parts |= {distribution: link_packages([distribution], target) for distribution in pinned("requirements.txt")}
        sizes = {part: (compressed(paths), sum(p.stat().st_size for p in paths)) for part, paths in parts.items()}
        for part, (zipped, unpacked) in sorted(sizes.items(), key=lambda item: -item[1][0])[:12]:
            print(f"{part:40} {zipped / 1e6:6.2f} MB zipped {unpacked / 1e6:6.2f} MB unpacked")
        zipped, unpacked = (sum(column) for column in zip(*sizes.values(), strict=True))
        print(f"{'all of ' + str(len(parts)):40} {zipped / 1e6:6.2f} MB zipped {unpacked / 1e6:6.2f} MB unpacked")


if __name__ == "__main__":
    main()
