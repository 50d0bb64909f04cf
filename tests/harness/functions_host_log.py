"""The log of the emulated Functions host, filtered by host.json as the host filters it.

Each record is one line on stderr, with where it goes: `[console]` is what an operator sees in the log stream, `[otel]`
what the host exports by OpenTelemetry. A record of the worker that belongs to no running invocation goes nowhere in
Azure; here it is written as `[dropped]`, so that a test can see it.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any

_LEVELS = ["Trace", "Debug", "Information", "Warning", "Error", "Critical", "None"]
_OF_PYTHON = {"DEBUG": "Debug", "INFO": "Information", "WARNING": "Warning", "ERROR": "Error", "CRITICAL": "Critical"}
_OF_THE_LIBRARY = ("azure.functions", "azure_functions", "grpc")
CONSOLE = "Host.Function.Console"


class Log:
    """The destinations of records, by `logging` in host.json: a rule for one sink counts before one for all sinks."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        everywhere: dict[str, str] = settings.get("logLevel", {})
        self._rules = {
            sink: (settings.get(section, {}).get("logLevel", {}), everywhere)
            for sink, section in (("console", "Console"), ("otel", "OpenTelemetry"))
        }

    def write(self, level: str, category: str, text: str) -> None:
        sinks = [sink for sink in self._rules if _LEVELS.index(level) >= self._lowest(sink, category)]
        if sinks:
            _print(f"[{'+'.join(sinks)}] {level} {category}: {text}")

    def of_invocation(self, function: str, number: str, logger: str, level: str, text: str) -> None:
        """A record of the worker's, of an invocation that runs."""
        category = "Worker.rpcWorkerChannel" if logger.startswith(_OF_THE_LIBRARY) else f"Function.{function}.User"
        self.write(_OF_PYTHON[level], category, f"{text} (Id={number})")

    def of_no_invocation(self, logger: str, level: str, text: str) -> None:
        """A record of the worker's that the host drops."""
        if not logger.startswith(_OF_THE_LIBRARY):
            _print(f"[dropped] {_OF_PYTHON[level]} {logger}: {text}")

    def of_console(self, line: str) -> None:
        """A line that the worker wrote to stdout or stderr; the host guesses its level from its words."""
        words = line.lower()
        level = "Warning" if "warn" in words else "Error" if re.search("error|fail|severe", words) else "Information"
        self.write(level, CONSOLE, line)

    def _lowest(self, sink: str, category: str) -> int:
        for rules in self._rules[sink]:
            matching = [name for name in rules if name != "default" and category.startswith(name)]
            if matching:
                return _LEVELS.index(rules[max(matching, key=len)])
            if "default" in rules:
                return _LEVELS.index(rules["default"])
        return _LEVELS.index("Information")


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
