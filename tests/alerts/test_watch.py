"""States that last become alerts, and states that pass do not."""

from shared.alerts.watch import Patience, Reading, Seen, look

PATIENCE = Patience(ejected=300, rows_waiting=60)
FINE = Reading("01ABC")


def run(*steps: tuple[float, Reading]) -> list[list[str]]:
    """The events that are raised at each of these looks."""
    seen, raised = Seen(), list[list[str]]()
    for now, reading in steps:
        seen, alerts = look(seen, reading, now, PATIENCE)
        raised.append([alert.event for alert in alerts])
    return raised


def ejected(**reasons: str) -> Reading:
    return Reading("01ABC", {("sweden", deployment): reason for deployment, reason in reasons.items()})


def test_a_backend_that_is_out_for_five_minutes_is_one_alert_with_all_its_deployments() -> None:
    out = ejected(chat="status 503", embed="timeout")
    assert run((0, out), (299, out), (300, out), (305, out)) == [[], [], ["backend_ejected"], ["backend_ejected"]]
    seen, _ = look(Seen(), out, 0, PATIENCE)
    _, (alert,) = look(seen, ejected(chat="", embed=""), 301, PATIENCE)
    assert alert.facts == {
        "backend": "sweden", "deployments": "chat, embed", "reason": "status 503", "seconds": 301,
    }  # fmt: skip
    assert "5 min" in alert.message


def test_a_backend_that_came_back_meanwhile_is_no_alert() -> None:
    out = ejected(chat="status 503")
    assert run((0, out), (200, FINE), (205, out), (301, out)) == [[], [], [], []]


def test_safe_mode_is_an_alert_at_its_beginning_and_at_its_end() -> None:
    safe = Reading("01ABC", safe_since=3.0)
    assert run((0, FINE), (5, safe), (10, safe), (15, FINE), (20, FINE)) == [
        [], ["safe_mode_began"], ["safe_mode_began"], ["safe_mode_ended"], [],
    ]  # fmt: skip


def test_rows_that_wait_on_disk_for_a_minute_are_an_alert() -> None:
    waiting = Reading("01ABC", rows_on_disk=True)
    assert run((0, waiting), (59, waiting), (60, waiting), (65, FINE), (70, waiting)) == [
        [], [], ["usage_rows_waiting"], [], [],
    ]  # fmt: skip


def test_lost_rows_are_an_alert_and_those_of_ten_minutes_are_told_together() -> None:
    lost = [Reading("01ABC", rows_lost=rows) for rows in (3, 4, 9, 9)]
    seen, alerts = look(Seen(), lost[0], 1000, PATIENCE)
    assert [alert.facts["rows"] for alert in alerts] == [3]
    seen, alerts = look(seen, lost[1], 1300, PATIENCE)
    assert alerts == []
    seen, alerts = look(seen, lost[2], 1601, PATIENCE)
    assert [alert.facts["rows"] for alert in alerts] == [9]
    _, alerts = look(seen, lost[3], 9000, PATIENCE)
    assert alerts == []
