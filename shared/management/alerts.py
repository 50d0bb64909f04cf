"""Alerts: what is firing, what was sent, and the receivers with their last result; a message to try a receiver."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from shared.alerts.dispatcher import Alerts
from shared.alerts.sent import Result, SentAlert, firing
from shared.alerts.watch import Reading
from shared.auth.operators import ADMINS
from shared.errors import ResourceNotFound, StoreUnavailable
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, checked, rfc3339
from shared.management.turns import Turns
from shared.responses.rendering import JsonResponse


class TriedReceiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The receiver to be tried, by its key in the configuration, such as `alerts.webhooks[0]`."""

    receiver: str


class AlertRoutes:
    """The paths below `/gateway/alerts`. `read` returns the states of this instance, `now` the store's time."""

    def __init__(self, alerts: Alerts, read: Callable[[], Reading], now: Callable[[], float]) -> None:
        self._alerts = alerts
        self._read = read
        self._now = now
        self._tests = Turns(1, 2)

    def routes(self) -> Sequence[Route]:
        at, test = "/gateway/alerts", "/gateway/alerts/test"
        return (
            Route("GET", at, "operator", self._all, gives=answers.Alerts),
            Route("POST", test, "operator", self._test, ADMINS, takes=TriedReceiver, gives=answers.AlertResult),
        )

    async def _all(self, request: ManagementRequest) -> Response:
        """Report the alerts that hold, those that were sent, and the receivers."""
        table = "ok"
        try:
            sent = await self._alerts.sent.newest()
        except StoreUnavailable:
            table, sent = "unreachable", self._alerts.sent.own()
        reading = self._read()
        ejected = {backend for backend, _ in reading.ejected}
        holding = firing(sent, ejected, self._now(), safe_mode=reading.safe_since is not None)
        last = {one.place: one for alert in reversed(sent) for one in alert.results or ()}
        receivers = [
            {
                "receiver": receiver.place,
                "kind": receiver.kind,
                "host": receiver.host,
                "events": sorted(receiver.events),
                "last": _result_view(last[receiver.place]) if receiver.place in last else None,
            }
            for receiver in self._alerts.receivers
        ]
        lists = {"firing": [*map(_alert_view, holding)], "sent": [*map(_alert_view, sent)], "receivers": receivers}
        return JsonResponse({"table": table, **lists})

    async def _test(self, request: ManagementRequest) -> Response:
        """Send a message to one receiver, once, and report what it answered."""
        place = checked(request.object(), TriedReceiver).receiver
        async with self._tests.take(request.actor.name):
            result = await self._alerts.test(place, request.actor.name)
        if result is None:
            known = ", ".join(receiver.place for receiver in self._alerts.receivers) or "none"
            raise ResourceNotFound(f"There is no receiver {place[:64]!r}; the configuration has: {known}.")
        return JsonResponse(_result_view(result))


def _alert_view(alert: SentAlert) -> Mapping[str, Any]:
    fields = msgspec.structs.asdict(alert) | {"at": rfc3339(alert.at), "until": rfc3339(alert.until)}
    del fields["key"]
    return fields if alert.results is None else fields | {"results": [*map(_result_view, alert.results)]}


def _result_view(result: Result) -> Mapping[str, Any]:
    fields = msgspec.structs.asdict(result)
    return {"receiver": fields.pop("place"), **fields, "at": rfc3339(result.at)}
