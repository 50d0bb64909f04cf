"""The books against the simulator's log, and after kill -9: short versions of `make bench-ledger`."""

from bench import ledger_exact, ledger_kills


def test_every_api_is_booked_to_the_token_whoever_leaves_and_whatever_fails() -> None:
    report = ledger_exact.run(250)
    assert report.missing == 0
    assert report.different == []
    assert report.exact == report.true
    assert report.exact["output_tokens"] > 1_000_000  # thousandths
    assert len(report.calls) > 20


def test_a_gateway_that_is_killed_has_every_answer_that_a_caller_got_in_full_on_record() -> None:
    report = ledger_kills.run(1, 20)
    assert report.whole > 10
    assert report.whole_without_end == 0
    assert report.tokens_booked > 1000
