"""`make bench-ledger`: the roll-up with a mistake in it must fail its property tests."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = {  # file, what stands there, what the mutant has instead
    "no guard: a fold of fewer rows may win": (
        "shared/usage/aggregates.py",
        "if manifest is None or manifest.rank < fold.rank:",
        "if manifest is None or manifest.generation:",
    ),
    "no compare-and-swap: who wakes up late overwrites": (
        "shared/usage/aggregates.py",
        "        if old is not None and old.rank >= new.rank:\n            return old\n",
        "",
    ),
    "added up instead of folded": (
        "shared/usage/rollup.py",
        "            result = fold.result()\n",
        "            old = await aggregates.read(self._aggregates, hours.hour_partition(hour))\n"
        "            result = aggregates.combine([fold.result(), *([old] if old else [])])\n",
    ),
}


def main() -> None:
    survivors = 0
    for name, mutant in MUTANTS.items():
        survived = survives(*mutant)
        survivors += survived
        print(f"mutant: {name}: {'SURVIVES' if survived else 'caught'}", flush=True)
    if survivors:
        raise SystemExit(1)


def survives(file: str, stands: str, instead: str) -> bool:
    """Whether the property tests pass all the same, on a copy of the code."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ("shared", "tests", "local", "simulator"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        text = (copy / file).read_text()
        if text.count(stands) != 1:
            raise SystemExit(f"{file} has changed: {stands!r} stands there {text.count(stands)} times")
        (copy / file).write_text(text.replace(stands, instead))
        tests_of_it = (
            copy / "tests" / "usage" / "test_rollup.py"
        )  # that it fails is enough: the smallest example takes minutes
        unshrunk = tests_of_it.read_text().replace("deadline=None", "deadline=None, phases=[Phase.generate]")
        tests_of_it.write_text(unshrunk.replace("import HealthCheck, given", "import HealthCheck, Phase, given"))
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/usage/test_rollup.py"]
        words += ["-k", "Converges or readers_see"]
        tests = subprocess.run(words, cwd=copy, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
        if tests.returncode not in (0, 1):
            raise SystemExit(tests.stdout.decode() + tests.stderr.decode())
        return tests.returncode == 0


if __name__ == "__main__":
    main()
