"""`make bench-ledger`: mutants of the roll-up must fail its property tests."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = {  # file, original, mutated
    "no rank check: a fold of fewer rows may win": (
        "shared/usage/aggregates.py",
        "if manifest is None or manifest.rank < fold.rank:",
        "if manifest is None or manifest.generation:",
    ),
    "no compare-and-swap: a late writer overwrites": (
        "shared/usage/aggregates.py",
        "        if row is not None and (in_force := _manifest(row)).rank >= new.rank:\n            return None\n",
        "",
    ),
    "adds to the old result instead of replacing it": (
        "shared/usage/rollup.py",
        "            result = fold.result()\n",
        "            old = await aggregates.read(self._aggregates, hours.hour_partition(hour))\n"
        "            result = combine([fold.result(), *([old] if old else [])], bounded)\n",
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


def survives(file: str, original: str, mutated: str) -> bool:
    """True if the property tests pass on a mutated copy of the code."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ("shared", "tests", "local", "simulator"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        text = (copy / file).read_text()
        if text.count(original) != 1:
            raise SystemExit(f"{file} has changed: it contains {original!r} {text.count(original)} times, not once")
        (copy / file).write_text(text.replace(original, mutated))
        # No shrinking, which takes minutes: a failure is enough.
        test_file = copy / "tests" / "usage" / "test_rollup.py"
        unshrunk = test_file.read_text().replace("deadline=None", "deadline=None, phases=[Phase.generate]")
        test_file.write_text(unshrunk.replace("import HealthCheck, given", "import HealthCheck, Phase, given"))
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/usage/test_rollup.py"]
        words += ["-k", "Converges or readers_see"]
        tests = subprocess.run(words, cwd=copy, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
        if tests.returncode not in (0, 1):
            raise SystemExit(tests.stdout.decode() + tests.stderr.decode())
        return tests.returncode == 0


if __name__ == "__main__":
    main()
