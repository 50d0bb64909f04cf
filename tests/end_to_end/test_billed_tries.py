"""The charges for attempts that did not answer the caller are on record, apart from the call's own."""

from typing import Any

import pytest

from tests.harness.system import System, eventually, final

CHARGED: dict[str, dict[str, Any]] = {
    "no answer": {"kind": "hang"},
    "408": {"kind": "status", "status": 408},
    "broken off in its body": {"kind": "wrong_length"},
}
CHARGED_STREAMS: dict[str, dict[str, Any]] = {
    "error before the first token": {"kind": "error_in_stream", "after_chunks": 0},
    "broken off before the first token": {"kind": "cut_stream", "after_chunks": 0},
}
FREE: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429, "headers": {"retry-after-ms": "50"}},
    "500": {"kind": "status", "status": 500},
    "no connection": {"kind": "reset"},
}
PROMPT = "What does it cost to pass the gate of this quiet harbour at noon, please? " * 3


def rows_of_a_call(system: System, fault: dict[str, Any], *, stream: bool, count: int) -> list[dict[str, Any]]:
    """The rows of a call that failed over once."""
    model, key = system.spare(), system.make_key("charges")
    fields = dict(fault)
    system.simulator.fault(fields.pop("kind"), deployment=model, times=1, **fields)
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    answer = system.post("/v1/chat/completions", body, key=key)
    assert answer.status == 200
    assert answer.headers["x-gateway-attempts"] == "2"
    rows: list[dict[str, Any]] = []

    def written() -> bool:
        rows[:] = system.usage_rows(key)
        return len(rows) == count and all(map(final, rows))

    eventually(written)
    return rows


@pytest.mark.parametrize("fault", [*CHARGED, *CHARGED_STREAMS])
def test_an_attempt_that_failed_after_its_prompt_was_read_is_recorded_separately(impatient: System, fault: str) -> None:
    about = (CHARGED | CHARGED_STREAMS)[fault]
    served, charge = rows_of_a_call(impatient, about, stream=fault in CHARGED_STREAMS, count=2)
    assert charge["id"] == f"{served['id']}-1"
    assert (charge["e_role"], charge["e_est"], charge["e_output"]) == ("try", True, 0)
    assert charge["e_backend"] != served["e_backend"]
    assert (charge["s_key"], charge["e_deployment"]) == (served["s_key"], served["e_deployment"])
    assert "e_est" not in served
    assert abs(charge["e_input"] - served["e_input"]) <= 0.1 * served["e_input"]


@pytest.mark.parametrize("fault", FREE)
def test_a_refused_attempt_costs_nothing(impatient: System, fault: str) -> None:
    (row,) = rows_of_a_call(impatient, FREE[fault], stream=False, count=1)
    assert "e_role" not in row
    assert row["e_attempts"] == 2
