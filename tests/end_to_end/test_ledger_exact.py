"""The ledger compared with the simulator's log, also after kill -9: short versions of `make bench-ledger`."""

from bench import ledger_exact, ledger_kills


def test_every_api_is_recorded_to_the_token_despite_disconnects_and_failures() -> None:
    report = ledger_exact.run(250)
    assert report.missing == 0
    assert report.different == []
    assert report.exact == report.true
    assert report.exact["output_tokens"] > 1_000_000  # thousandths
    assert len(report.calls) > 20


def test_a_killed_gateway_has_recorded_every_complete_answer() -> None:
    report = ledger_kills.run(1, 20)
    assert report.whole > 10
    assert report.whole_without_end == 0
    assert report.tokens_booked > 1000
