"""`make vendor`: copies the page's libraries from npm's packages, with their licences and a manifest.

The manifest has the package, the version and the licence of every file, and the integrity that the registry
states for the package. `--check` compares instead, and fails if anything differs.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "local" / "page" / "node_modules"
VENDOR = ROOT / "shared" / "management" / "page" / "vendor"
FILES = {  # package -> the file's name in the folder -> its place in the package
    "preact": {"preact.mjs": "dist/preact.mjs", "hooks.mjs": "hooks/dist/hooks.mjs", "LICENSE-preact": "LICENSE"},
    "htm": {"htm.mjs": "dist/htm.mjs", "LICENSE-htm": "LICENSE"},
    "uplot": {
        "uPlot.iife.min.js": "dist/uPlot.iife.min.js",
        "uPlot.min.css": "dist/uPlot.min.css",
        "LICENSE-uplot": "LICENSE",
    },
    "oauth4webapi": {"oauth4webapi.mjs": "build/index.js", "LICENSE-oauth4webapi": "LICENSE.md"},
}


def expected_files() -> dict[str, bytes]:
    """The content of the folder, by file name."""
    lock = json.loads((MODULES / ".package-lock.json").read_text())["packages"]
    contents: dict[str, bytes] = {}
    manifest: dict[str, Any] = {}
    for package, named in FILES.items():
        about = json.loads((MODULES / package / "package.json").read_text())
        contents |= {name: (MODULES / package / file).read_bytes() for name, file in named.items()}
        manifest[package] = {
            "version": about["version"],
            "license": about["license"],
            "integrity": lock[f"node_modules/{package}"]["integrity"],
            "files": {name: {"from": file, "sha384": _digest(contents[name])} for name, file in named.items()},
        }
    contents["manifest.json"] = json.dumps(manifest, indent=2).encode() + b"\n"
    return contents


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha384(content).digest()).decode()


def main() -> None:
    contents = expected_files()
    if "--check" not in sys.argv:
        for path in VENDOR.iterdir():
            path.unlink()
        for name, content in contents.items():
            (VENDOR / name).write_bytes(content)
        return
    have = {path.name: path.read_bytes() for path in VENDOR.iterdir()}
    wrong = sorted(name for name in have.keys() | contents.keys() if have.get(name) != contents.get(name))
    if wrong:
        sys.exit(f"{VENDOR.relative_to(ROOT)}: {', '.join(wrong)} differ from npm's packages; make vendor renews them")


if __name__ == "__main__":
    main()
