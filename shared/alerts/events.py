"""The alerts that there are, as values: each has a stable name, a sentence to act on, and facts. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from shared.config.alerting import Event

Severity = Literal["info", "warning", "error"]
Fact = str | int | float | bool
_Facts = Mapping[str, Fact]

REPEATED_AFTER = 3600.0  # seconds after which a state that lasts is reported again
_ENDS_TOGETHER = 300.0  # seconds within which all instances leave safe mode
_MOST_COMPLAINTS = 5  # of a refused configuration
_LONGEST = 500  # characters of a text that others wrote


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs a person. `key` identifies it among all instances, `until` is the time (seconds since 1970)
    before which it is not raised again. `claimed`: only one instance raises it."""

    event: Event | Literal["test"]
    severity: Severity
    key: str
    until: float
    message: str
    facts: Mapping[str, Fact] = {}
    claimed: bool = False

    @property
    def id(self) -> str:
        """The same for every try, and for instances that raise the same alert within the hour."""
        return digest(f"{self.key}|{int(self.until // 3600)}")[:16]


def digest(text: str) -> str:
    """A name for a text, as safe in a row's key as in a header."""
    return hashlib.sha256(text.encode()).hexdigest()


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def quota_reached(scope: str, about: str, limit: str, percentage: int, until: float) -> Alert:
    """A quota or a budget of `about` is used to this percentage; it renews at `until`. The limit's row has made sure
    that only one instance raises it."""
    used = "used up" if percentage >= 100 else f"used to {percentage} %"
    what = "budget" if limit == "usd" else f"quota of {limit}"
    advice = "Calls beyond it get 403" if percentage >= 100 else "Raise it, or ask its users to slow down"
    return Alert(
        event="quota_reached",
        severity="error" if percentage >= 100 else "warning",
        key=f"quota:{scope}:{limit}:{percentage}:{until:.0f}",
        until=until,
        message=f"{about}: its {what} is {used}, and renews at {moment(until)}. {advice}.",
        facts={"scope": scope, "about": about, "limit": limit, "percentage": percentage, "renews": moment(until)},
        claimed=True,
    )


def backend_ejected(backend: str, deployments: Sequence[str], reason: str, seconds: float, now: float) -> Alert:
    """No call to these deployments of a backend has succeeded for so many seconds."""
    names, reason = ", ".join(deployments), _short(reason)
    message = (
        f"The backend {backend} has been out of rotation for {_duration(seconds)} ({names}: {reason}). Other backends "
        "serve its calls if they can. Check its health in Azure, or drain it."
    )
    facts: _Facts = {"backend": backend, "deployments": names, "reason": reason, "seconds": round(seconds)}
    return _alert("backend_ejected", "error", backend, now + REPEATED_AFTER, message, facts)


def credentials_refused(backend: str, deployment: str, problem: str, now: float) -> Alert:
    """A backend rejected the gateway's identity or key, or the identity got no token for it. `deployment` "": on a call
    without a model."""
    place, problem = f" on {deployment}" if deployment else "", _short(problem)
    message = (
        f"The backend {backend} does not accept the gateway's credentials{place} ({problem}). Check the role "
        "assignment of the gateway's identity, its key, the credit of that key's account, and the network rules."
    )
    facts: _Facts = {"backend": backend, "deployment": deployment, "problem": problem}
    about = f"{backend}:{deployment}"
    return _alert("credentials_refused", "error", about, now + REPEATED_AFTER, message, facts)


def safe_mode_began(since: float, now: float) -> Alert:
    """The table of limits does not answer."""
    message = (
        f"Safe mode since {moment(since)}: the storage account's tables do not answer, so instances apply limits "
        "alone, and more strictly. Check the storage account's health and network rules."
    )
    return _alert("safe_mode_began", "error", "", now + REPEATED_AFTER, message, {"since": moment(since)})


def safe_mode_ended(since: float, now: float) -> Alert:
    """The table of limits answers again."""
    message = f"Safe mode has ended after {_duration(now - since)}: the storage account's tables answer again."
    facts: _Facts = {"since": moment(since), "ended": moment(now), "seconds": round(now - since)}
    return _alert("safe_mode_ended", "info", "", now + _ENDS_TOGETHER, message, facts)


def usage_rows_waiting(instance: str, seconds: float, now: float) -> Alert:
    """Usage rows of an instance have waited on its disk for so many seconds."""
    message = (
        f"Usage rows have waited on the disk of the instance {instance} for {_duration(seconds)}, because the usage "
        "table does not take them. They are written when it does; until then reports lack them. Do not scale in."
    )
    facts: _Facts = {"instance": instance, "seconds": round(seconds)}
    return _alert("usage_rows_waiting", "warning", instance, now + REPEATED_AFTER, message, facts)


def usage_rows_lost(instance: str, rows: int, now: float) -> Alert:
    """An instance has lost so many usage rows since its start."""
    message = (
        f"The instance {instance} has lost {rows} usage rows since its start: reports and bills lack them. Its log "
        "says which, and how many tokens they had."
    )
    facts: _Facts = {"instance": instance, "rows": rows}
    return _alert("usage_rows_lost", "error", f"{instance}:{rows}", now + REPEATED_AFTER, message, facts)


def configuration_refused(source: str, complaints: Sequence[str], now: float) -> Alert:
    """A new configuration is wrong, so the former one stays in effect. `complaints` name keys and what was expected;
    they hold no secret."""
    first, more = [_short(line) for line in complaints[:_MOST_COMPLAINTS]], len(complaints) - _MOST_COMPLAINTS
    excerpt = "; ".join(first) + (f"; and {more} more" if more > 0 else "")
    named = f"The configuration from {_short(source)} is invalid; the previous one stays in effect."
    about, until = digest(source + chr(10).join(complaints)), now + 24 * REPEATED_AFTER
    facts: _Facts = {"source": _short(source), "complaints": len(complaints)}
    return _alert("configuration_refused", "error", about, until, f"{named} Fix it: {excerpt}", facts)


def model_retires(model: str, backends: Iterable[str], day: str, replacement: str, within: int, days: int) -> Alert:
    """A model ends on a day, which is `days` ahead, and so within the notice of `within` days."""
    places, when = ", ".join(backends), f"in {_days(days)}" if days else "today"
    instead = f" Its replacement is {replacement}." if replacement else ""
    message = (
        f"The model {model} ends on {day}, {when} ({places}).{instead} Deploy another model and name it under "
        "models.NAME.replaced_by, or tell its callers."
    )
    facts: _Facts = {"model": model, "backends": places, "retires": day, "days": days, "replacement": replacement}
    until = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + 86_400
    severity: Severity = "error" if within <= 7 else "warning"
    return _alert("model_retires", severity, f"{model}:{day}:{within}", until, message, facts)


def key_expires(consumer: str, name: str, key: str, expires: float, within: int, now: float) -> Alert:
    """A consumer's key expires within so many days. `key`: its id."""
    days = max(0, int((expires - now) // 86_400))
    message = (
        f"The key {key} of {name!r} expires at {moment(expires)}, in {_days(days)}. Rotate it and give its owner the "
        "new one, or extend it."
    )
    facts: _Facts = {"consumer": consumer, "name": name, "key": key, "expires": moment(expires), "days": days}
    severity: Severity = "error" if within <= 3 else "warning"
    return _alert("key_expires", severity, f"{consumer}:{key}:{expires:.0f}:{within}", expires, message, facts)


def access_requested(request: str, name: str, wish: str, reason: str, at: float) -> Alert:
    """The caller `name` asks for `wish`, a product or higher limits."""
    message = (
        f"{name!r} asks for {wish}, because: {_short(reason)} Approve or decline the request {request} in the page, or "
        "with tollgate access."
    )
    facts: _Facts = {"request": request, "name": name, "wish": wish, "reason": _short(reason)}
    return _alert("access_requested", "info", request, at + REPEATED_AFTER, message, facts, claimed=True)


def access_decided(request: str, name: str, wish: str, answer: str, at: float, *, approved: bool) -> Alert:
    """An operator has given the caller `name` what it asked for, or refused it."""
    event: Event = "access_approved" if approved else "access_declined"
    outcome = f"has {wish} now" if approved else f"does not get {wish}"
    message = f"{name!r} {outcome} (request {request}{f': {_short(answer)}' if answer else ''})."
    facts: _Facts = {"request": request, "name": name, "answer": _short(answer)}
    return _alert(event, "info", request, at + REPEATED_AFTER, message, facts, claimed=True)


def test_message(by: str, now: float) -> Alert:
    """Nothing has happened: an operator tries a receiver."""
    message = f"Test alert, sent by {_short(by)}. No action is needed."
    return _alert("test", "info", f"{now}", now, message, {"by": _short(by)}, claimed=True)


def _alert(
    event: Event | Literal["test"],
    severity: Severity,
    about: str,
    until: float,
    message: str,
    facts: _Facts,
    *,
    claimed: bool = False,
) -> Alert:
    """An alert that is one of its event and what it is about; "": of its event alone."""
    key = f"{event}:{about}" if about else event
    return Alert(event=event, severity=severity, key=key, until=until, message=message, facts=facts, claimed=claimed)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _short(text: str) -> str:
    """A text on one line, of a bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
