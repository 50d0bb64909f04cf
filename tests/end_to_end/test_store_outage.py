"""The store hangs, or is gone: what is known goes on being served, and no row is lost."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from shared.auth import keys
from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import Edge, GatewayProcess
from tests.harness.system import System, configuration, eventually, final
from tests.harness.system import system as start_system


def timed_chat(system: System, key: str = "") -> tuple[int, float]:
    """The status of a chat completion, and the seconds until its answer was there."""
    started = time.monotonic()
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    status = system.post("/v1/chat/completions", body, key=key).status
    return status, time.monotonic() - started


def test_while_the_store_hangs_known_keys_are_served_and_their_rows_are_written_when_it_is_back(
    simulator: SimulatorProcess,
) -> None:
    with (
        start_azurite() as azurite,
        start_system("uvicorn", configuration(simulator), simulator, azurite.connection_string) as system,
    ):
        unknown = system.make_key("unknown")
        assert timed_chat(system)[0] == 200
        os.kill(azurite.pid, signal.SIGSTOP)
        try:
            answers = [timed_chat(system) for _ in range(12)]
            status, seconds = timed_chat(system, unknown)
        finally:
            os.kill(azurite.pid, signal.SIGCONT)
        assert {status for status, _ in answers} == {200}
        assert max(seconds for _, seconds in answers) < 8  # held for its row, for 2 s
        assert sum(seconds for _, seconds in answers[2:]) < 10  # and then no longer
        assert status == 503  # never 401: the key may be good
        assert seconds < 10
        eventually(lambda: len([row for row in system.usage_rows() if "e_status" in row]) == 13)
        assert timed_chat(system, unknown)[0] == 200
        system.assert_no_defect()


def test_rows_outlive_a_gateway_that_is_killed_while_the_store_is_out_of_reach(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    settings = configuration(simulator, ledger={"overflow_directory": str(tmp_path)})
    with start_azurite() as azurite:
        with start_system("uvicorn", settings, simulator, azurite.connection_string) as system:
            assert timed_chat(system)[0] == 200
            os.kill(azurite.pid, signal.SIGSTOP)
            try:
                assert {timed_chat(system)[0] for _ in range(5)} == {200}
                eventually(lambda: len(list(tmp_path.glob("*/*.rows"))) == 1)
                eventually(lambda: "usage rows wait on disk" in system.gateway.logs())
                time.sleep(3)  # longer than a try of the table, after which what is left goes to disk
                system.gateway.kill()
            finally:
                os.kill(azurite.pid, signal.SIGCONT)
        with start_system("uvicorn", settings, simulator, azurite.connection_string) as heir:
            eventually(lambda: len([row for row in system.usage_rows() if "e_status" in row]) == 6)
            eventually(lambda: not list(tmp_path.glob("*/*.rows")))
            eventually(lambda: "usage rows were read back from disk" in heir.gateway.logs())
            heir.assert_no_defect()


@pytest.mark.parametrize("edge", ["uvicorn", "functions"])
def test_a_recorded_answer_waits_for_no_store_and_outlives_a_kill_right_behind_it(
    simulator: SimulatorProcess, tmp_path: Path, edge: Edge
) -> None:
    settings = configuration(simulator, ledger={"overflow_directory": str(tmp_path), "durability": "recorded"})
    with start_azurite() as azurite:
        with start_system(edge, settings, simulator, azurite.connection_string) as system:
            assert timed_chat(system)[0] == 200
            os.kill(azurite.pid, signal.SIGSTOP)
            try:
                answers = [timed_chat(system) for _ in range(5)]
                os.kill(system.gateway.pid, signal.SIGKILL)
            finally:
                os.kill(azurite.pid, signal.SIGCONT)
        assert {status for status, _ in answers} == {200}
        assert max(seconds for _, seconds in answers) < 1.9  # one that is not recorded is held for 2 s
        with start_system(edge, settings, simulator, azurite.connection_string) as heir:
            assert timed_chat(heir)[0] == 200
            eventually(lambda: sum(map(final, system.usage_rows())) == 6)
            rows = [row for row in system.usage_rows() if row.get("e_status") == 200]
            assert len(rows) == 6
            assert {row["e_output"] for row in rows} == {32}
            heir.assert_no_defect()


def test_a_gateway_that_starts_without_its_store_says_so_and_serves_when_it_is_there(
    simulator: SimulatorProcess,
) -> None:
    with start_azurite() as azurite:
        os.kill(azurite.pid, signal.SIGSTOP)
        stopped = True
        try:
            environ = {
                "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
                "GATEWAY_STORAGE": azurite.connection_string,
                "JAPAN_KEY": simulator.api_key,
                **simulator.identity_environment,
            }
            with GatewayProcess("uvicorn", environ) as gateway:
                headers = {"authorization": f"Bearer {keys.make('0123456789')[0]}"}
                answer = gateway.request("POST", "/v1/chat/completions", b"{}", headers)
                assert answer.status == 503
                assert answer.error()["code"] == "store_unavailable"
                assert answer.headers["retry-after"]
                os.kill(azurite.pid, signal.SIGCONT)
                stopped = False
                eventually(lambda: gateway.request("POST", "/v1/chat/completions", b"{}", headers).status == 401)
                assert "Traceback" not in gateway.logs()
        finally:
            if stopped:
                os.kill(azurite.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_that_is_stopped_writes_the_rows_it_has(simulator: SimulatorProcess, number: signal.Signals) -> None:
    with (
        start_azurite() as azurite,
        start_system("uvicorn", configuration(simulator), simulator, azurite.connection_string) as system,
    ):
        for _ in range(5):
            assert timed_chat(system)[0] == 200
        os.kill(system.gateway.pid, number)
        eventually(lambda: "Finished server process" in system.gateway.logs())
        assert len([row for row in system.usage_rows() if row.get("e_status") == 200]) == 5
