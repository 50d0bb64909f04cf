"""Coding agents get their answers through the gateway, and each of their calls is on record."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from simulator.tokens import generate_tokens
from tests.agents.agents import AGENTS, INSISTS, Place, Start
from tests.agents.outside import Outside, outside
from tests.harness.system import System, eventually

SECONDS = 120.0
SWITCHED, REFUSED = 101, 426  # the statuses of WebSockets
WORDS = 32  # of an answer
# Whatever the prompt is: the simulator's words go round.
ANSWERS = {"".join(generate_tokens("", 0, 31 + WORDS)[start : start + WORDS]).strip() for start in range(31)}


@pytest.fixture
def world() -> Iterator[Outside]:
    with outside() as refusing:
        yield refusing


def run(words: Sequence[str], start: Start, at: Place) -> str:
    """The output of a command, which has its own home and cannot leave this machine."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), at.outside) | {"NO_PROXY": "127.0.0.1"}
    home = {"HOME": str(at.home), "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8"}
    environment = {"PATH": os.environ["PATH"], **home, **proxies, **{k.lower(): v for k, v in proxies.items()}}
    done = subprocess.run(
        words,
        cwd=at.home,
        env=environment | dict(start.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 0, text
    return " ".join(text.split())


def records(system: System, key: str) -> list[tuple[int, str]]:
    """The status and the operation of each call with a key, as the log has it, without the WebSockets around them."""
    own = (record for record in system.gateway.records() if record.get("consumer") == key.split("_")[1])
    return [(one["status"], one["operation"]) for one in own if one["status"] not in (SWITCHED, REFUSED)]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_gets_its_answer(gateway: System, world: Outside, tmp_path: Path, name: str) -> None:
    key = gateway.make_key(name)
    at = Place(gateway.url, key, tmp_path, world.url)
    start, before = AGENTS[name](at), len(gateway.gateway.records())
    if start.before:
        run(start.before, start, at)
    output = run(start.words, start, at)
    assert any(answer in output for answer in ANSWERS), output
    calls = records(gateway, key)
    charged = [operation for _, operation in calls if operation != "models.list"]
    assert charged
    assert {status for status, _ in calls} == {200}
    eventually(lambda: len(gateway.usage_rows(key)) == len(calls))
    assert sum(row["e_input"] > 0 and row["e_output"] > 0 for row in gateway.usage_rows(key)) == len(charged)
    assert ("models.list" in {operation for _, operation in calls}) == (name == "codex-models")
    # A WebSocket is served, or its attempt is made once, and none of the calls waits for others.
    statuses = [record["status"] for record in gateway.gateway.records()[before:]]
    refused, served = ("websockets" in name and gateway.edge == edge for edge in ("functions", "uvicorn"))
    assert statuses.count(REFUSED) == refused
    assert (SWITCHED in statuses) == served
    assert set(statuses) <= {200, REFUSED, SWITCHED}
    assert world.asked <= INSISTS.get(name, set())


def test_codex_goes_on_with_its_session(gateway: System, world: Outside, tmp_path: Path) -> None:
    key = gateway.make_key("two turns")
    at = Place(gateway.url, key, tmp_path, world.url)
    start = AGENTS["codex"](at)
    run(start.words, start, at)
    again = run([*start.words[:2], "resume", "--last", "--skip-git-repo-check", "And then?"], start, at)
    assert any(answer in again for answer in ANSWERS), again
    assert records(gateway, key) == [(200, "responses.create")] * 2


def test_codex_reads_the_list_of_models(gateway: System, world: Outside, tmp_path: Path) -> None:
    start = AGENTS["codex-models"](at := Place(gateway.url, gateway.make_key("models"), tmp_path, world.url))
    output = run(start.words, start, at)
    assert "models response" not in output
    assert "failed to refresh" not in output
