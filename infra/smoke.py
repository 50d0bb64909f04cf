"""Tries a deployed gateway: makes a key, streams one call, reads its usage, and revokes the key.

python infra/smoke.py URL [MODEL]     GATEWAY_STORAGE__tableServiceUri: the tables; MODEL: else the first of /v1/models

Exit code 1: something was not as it should be, and the last line says what. It waits up to five minutes for roles and
instances, which a first deployment needs.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = float(os.environ.get("SMOKE_PATIENCE", "300"))  # seconds
PAUSE = 5.0


class Failed(Exception):
    """A step did not go as it should."""


def patiently[Result](step: Callable[[], Result]) -> Result:
    """The result of a step, which is repeated until it succeeds or the patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except (OSError, Failed) as error:
            if time.monotonic() + PAUSE > deadline:
                raise Failed(str(error)) from error
        time.sleep(PAUSE)


def command(*words: str) -> Any:
    """The JSON that a command of the gateway's command line prints."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli", *words, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise Failed(f"tollgate {' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def call(url: str, key: str = "", body: object = None) -> bytes:
    """The answer to a call of the gateway."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as answer:
            text: bytes = answer.read()
            return text
    except urllib.error.HTTPError as error:
        raise Failed(f"{url}: {error.code} {error.read(500).decode(errors='replace')}") from None


def stream(url: str, key: str, model: str) -> None:
    """One streamed call, whose events must be whole."""
    question = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say one word."}]}
    events = call(f"{url}/v1/chat/completions", key, question).decode().strip().split("\n\n")
    if events[-1] != "data: [DONE]":
        raise Failed(f"the stream ended with {events[-1][:200]!r} and not with [DONE]")
    print(f"stream: {len(events)} events from {model}")


def usage_of(url: str, key: str) -> dict[str, Any]:
    """The usage of this key, once it has some: the row of a call may follow its answer within a second."""
    usage: dict[str, Any] = json.loads(call(f"{url}/gateway/usage/me", key))
    if not any(line["requests"] for line in usage["lines"]):
        raise Failed(f"the call is not in the usage: {usage}")
    return usage


def main() -> int:
    if len(sys.argv) not in (2, 3) or not urlsplit(sys.argv[1]).netloc:
        print(__doc__, file=sys.stderr)
        return 2
    url = sys.argv[1].rstrip("/")
    made = None
    try:
        patiently(lambda: call(f"{url}/healthz"))
        print("healthz: ok")
        made = patiently(lambda: command("keys", "create", f"smoke-{int(time.time())}"))
        key = made["key"]
        print(f"key: {made['id']} made")
        models = json.loads(patiently(lambda: call(f"{url}/v1/models", key)))["data"]
        model = sys.argv[2] if len(sys.argv) == 3 else models[0]["id"]
        patiently(lambda: stream(url, key, model))
        usage = patiently(lambda: usage_of(url, key))
        print(f"usage: {sum(line['input_tokens'] + line['output_tokens'] for line in usage['lines'])} tokens")
    except Failed as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    finally:
        if made is not None:
            command("keys", "revoke", made["id"])
            print("key: revoked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
