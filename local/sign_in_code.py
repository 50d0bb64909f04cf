"""The code in the link that `make run` and `make link` print: it signs in once, within ten minutes. A file of the run
has its digest, and goes with the first sign-in."""

import hashlib
import hmac
import json
import os
import secrets
import shlex
import sys
import time
from pathlib import Path

FILE = "TOLLGATE_LOCAL_SIGN_IN"  # the variable with the path of the file
MINUTES = 10


def make(file: Path) -> str:
    """A new code, in place of the one before."""
    code = secrets.token_urlsafe(32)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        json.dump({"sha256": _digest(code), "until": time.time() + MINUTES * 60}, output)
    return code


def link(state: Path) -> str:
    """A new link for the local run whose files are in this directory, in place of the one before; "" if there was no
    such run, or one without links."""
    try:
        words = shlex.split((state / "env").read_text())
    except FileNotFoundError:
        return ""
    exported = dict(word.partition("=")[::2] for word in words)
    return f"{exported['GATEWAY_URL']}/gateway/#sign-in={make(Path(exported[FILE]))}" if FILE in exported else ""


def claim(file: Path, code: str) -> bool:
    """True for the right code in time, and only once."""
    try:
        kept = json.loads(file.read_text())
        if not hmac.compare_digest(_digest(code), kept["sha256"]) or time.time() >= kept["until"]:
            return False
        file.unlink()  # of several who try at a time, one succeeds
    except FileNotFoundError:
        return False
    return True


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


if __name__ == "__main__":
    new = link(Path(__file__).resolve().parent.parent / ".local")
    print(
        f"{new}    (signs in once, within {MINUTES} minutes)" if new else "There is no local run: make run starts one."
    )
    sys.exit(not new)
