"""Single calls: the newest that match a filter, and one by its id."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from shared.auth.consumers import Consumers
from shared.auth.operators import EVERYONE, Operator
from shared.billing import call_report
from shared.billing.charges import Tariff
from shared.config.document import Configuration
from shared.errors import InvalidRequest, ResourceNotFound
from shared.management import _answers as answers
from shared.management.routes import ManagementRequest, Route, page_size, time_of
from shared.management.turns import Turns
from shared.responses.rendering import JsonResponse
from shared.storage import Row, Store
from shared.usage import calls

_DEFAULT_PERIOD = 86_400.0  # seconds
_AHEAD = 60.0  # seconds
_EQUAL = {"consumer": "key", "team": "team", "product": "product", "model": "model", "code": "code"}
FILTERS = (*_EQUAL, "status", "since", "until")


class RequestRoutes:
    """The paths below `/gateway/requests`."""

    def __init__(self, store: Store, configuration: Configuration) -> None:
        self._store = store
        self._tariff = Tariff.of(configuration)
        self._searches = Turns(2, 8)  # each may read 20,000 rows

    def routes(self) -> Sequence[Route]:
        query = (*FILTERS, "after", "limit")
        return (
            Route("GET", "/gateway/requests", "operator", self._list, EVERYONE, gives=answers.Calls, query=query),
            Route("GET", "/gateway/requests/{id}", "operator", self._one, EVERYONE, gives=answers.Call),
        )

    async def _list(self, request: ManagementRequest) -> Response:
        """List calls, newest first."""
        async with self._searches.take(request.actor.name):
            return JsonResponse(await self._listed(request.query, request.actor))

    async def _listed(self, query: Mapping[str, str], operator: Operator) -> dict[str, Any]:
        """A page of the calls that a query asks for, as far as the operator may see them. Raises `InvalidRequest`."""
        now = self._store.now()
        latest = now + _AHEAD  # the clock of the instance that served a call may be ahead of the store's
        until = min(time_of(query, "until", latest), latest)
        since, limit, after = time_of(query, "since", until - _DEFAULT_PERIOD), page_size(query), query.get("after", "")
        if after and not calls.is_id(after):
            raise InvalidRequest.of("after", "the value of `after` of another page", after)
        status = _statuses(query.get("status"))

        def matches(row: Row) -> bool:
            values = row.properties
            return (
                all(_value(values, column) == query[name] for name, column in _EQUAL.items() if name in query)
                and int(_value(values, "status") or 0) in status
                and operator.sees(_value(values, "team"))
            )

        page = await calls.newest(self._store, since, until, limit, matches, after)
        names = {record.consumer.id: record.consumer.name for record in await Consumers(self._store).all()}
        return {
            "data": [call_report.described(call, self._tariff, now, names) for call in page.calls],
            "after": page.after,
        }

    async def _one(self, request: ManagementRequest) -> Response:
        """Describe one call in full."""
        call_id = request.parameters["id"]
        call = await calls.find(self._store, call_id) if calls.is_id(call_id) else None
        if call is None or not request.actor.sees(_value(call.own.properties, "team")):
            raise ResourceNotFound(
                f"There is no call {call_id[:64]!r}: use the id from x-gateway-request-id. Rows appear within a second "
                "and are deleted after ledger.keep_months; of refused calls, only a sample has rows."
            )
        key = _value(call.own.properties, "key")
        record = await Consumers(self._store).find(key) if key else None
        names = {key: record.consumer.name} if record else {}
        return JsonResponse(call_report.in_full(call, self._tariff, self._store.now(), names))


def _value(row: Mapping[str, Any], name: str) -> str:
    """A property that some rows have from the beginning of a call, some from its end, and some as refused."""
    return str(next((row[f"{prefix}_{name}"] for prefix in "ser" if f"{prefix}_{name}" in row), ""))


def _statuses(text: str | None) -> range:
    """The statuses that a filter such as `429`, `4xx` or `5xx` stands for; every one without a filter."""
    if text is None:
        return range(1000)
    if len(text) == 3 and text.isascii() and text[0] in "12345":
        if text.isdecimal():
            return range(int(text), int(text) + 1)
        if text[1:] == "xx":
            return range(int(text[0]) * 100, int(text[0]) * 100 + 100)
    raise InvalidRequest.of("status", "a status such as 429, or a class such as 5xx", text)
