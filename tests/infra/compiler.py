"""The Bicep compiler as one process that answers many questions: `bicep jsonrpc`. A start takes longer than an answer.

The compiler is the program in BICEP, or else `bicep` on the path.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.infra.snapshots import ROOT

_TARGET = {
    "subscriptionId": "00000000-0000-0000-0000-000000000000",
    "tenantId": "00000000-0000-0000-0000-000000000001",
    "location": "swedencentral",
}


class Refused(Exception):
    """The compiler's sentences about what is wrong."""


def program() -> str | None:
    """The Bicep compiler of this machine."""
    given = os.environ.get("BICEP")
    return str(ROOT / given) if given else shutil.which("bicep")


class Compiler:
    """A running compiler. It sees `environ`, and none of this machine's variables that main.bicepparam reads."""

    def __init__(self, **environ: str) -> None:
        command = program()
        if command is None:
            raise FileNotFoundError("The Bicep compiler is needed: put `bicep` on the path, or its path into BICEP.")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "GATEWAY_"))}
        self._process = subprocess.Popen(
            [command, "jsonrpc", "--stdio"],
            env={**kept, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)

    def warnings(self, path: Path) -> list[str]:
        """All that the compiler and its linter find in a file and in what it uses."""
        return [f"{Path(d['source']).name}: {d['code']}: {d['message']}" for d in self._compiled(path)["diagnostics"]]

    def compiled(self, path: Path) -> dict[str, Any]:
        """The template of a .bicep file, or the parameters of a .bicepparam file. Raises `Refused`."""
        answer = self._compiled(path)
        if not answer["success"]:
            raise Refused("\n".join(diagnostic["message"] for diagnostic in answer["diagnostics"]))
        built: dict[str, Any] = json.loads(answer["contents" if path.suffix == ".bicep" else "parameters"])
        return built

    def formatted(self, path: Path) -> str:
        """The text of a file in the formatter's form."""
        text: str = self._ask("format", path=str(path))["contents"]
        return text.rstrip("\n") + "\n"

    def snapshot(self, path: Path) -> str:
        """The resources that a parameter file would create, as JSON with sorted keys. Raises `Refused`."""
        self.compiled(path)
        predicted = json.loads(self._ask("getSnapshot", path=str(path), metadata=_TARGET)["snapshot"])
        return json.dumps(predicted, indent=2, sort_keys=True) + "\n"

    def _compiled(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".bicep":
            return self._ask("compile", path=str(path))
        return self._ask("compileParams", path=str(path), parameterOverrides={})

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests += 1
        question = {"jsonrpc": "2.0", "id": self._requests, "method": f"bicep/{method}", "params": [parameters]}
        body = json.dumps(question).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()
        length = 0
        while line := self._process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answer = json.loads(self._process.stdout.read(length))
        if "error" in answer:
            raise Refused(answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result
