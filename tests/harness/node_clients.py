"""Node's official clients, in pinned versions."""

import json
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "end_to_end" / "node"


def program(name: str) -> str:
    """The path of a program that uses them, which are installed if they are missing or of other versions."""
    dependencies = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    if any(_installed(client) != version for client, version in dependencies.items()):
        done = subprocess.run(["npm", "ci"], cwd=FOLDER, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        assert done.returncode == 0, f"npm cannot install Node's clients: {done.stderr.decode()[-300:]}"
    return str(FOLDER / name)


def run(name: str, *arguments: str) -> list[str]:
    """The lines that a program prints."""
    words = ["node", program(name), *arguments]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()[-2_000:]
    return done.stdout.decode().splitlines()


def _installed(client: str) -> str | None:
    package = FOLDER / "node_modules" / client / "package.json"
    return str(json.loads(package.read_text())["version"]) if package.exists() else None
