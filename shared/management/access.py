"""Requests for access: callers ask for a product or a higher limit, operators approve or decline.

An approval changes the consumer as an operator's own change would, by the same rules. It is claimed first and closed
afterwards, each by a conditional write, so that it takes effect once however many decide at a time."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from shared.alerts import events
from shared.alerts.dispatcher import Raise
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.auth.operators import EVERYONE, OWNERS
from shared.config.document import Configuration
from shared.errors import GatewayError, InvalidRequest, StoreUnavailable
from shared.management import _access_requests as requests
from shared.management._access_requests import STATES, AccessRequest, AccessView, Asking, Decision
from shared.management._access_table import AccessTable, missing
from shared.management._consumer_policy import Rules
from shared.management.audit import Audit, Change
from shared.management.consumers import ConsumerRoutes, Edit
from shared.management.routes import IF_MATCH, ManagementRequest, Page, Route, checked, etag_of, page
from shared.responses.rendering import JsonResponse
from shared.storage import Store, names
from shared.storage.conditional import TRIES, contended, pause

_AT = "/gateway/requests-for-access"


class OwnAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's requests, the newest first; the products that it may ask for, and the limits that may be raised."""

    data: list[AccessView]
    products: list[str]
    limits: dict[str, float]


class AccessRoutes:
    """The paths below `/gateway/requests-for-access`. `alert` raises alerts of requests and decisions."""

    def __init__(
        self,
        store: Store,
        configuration: Callable[[], Configuration],
        audit: Audit,
        consumers: ConsumerRoutes,
        alert: Raise,
    ) -> None:
        self._store = store
        self._configuration = configuration
        self._audit = audit
        self._changes = consumers
        self._alert = alert
        self._table = AccessTable(store)
        self._consumers = Consumers(store)

    def routes(self) -> Sequence[Route]:
        one, filters = f"{_AT}/{{request}}", ("state", "consumer", "limit", "after")
        deciding: dict[str, Any] = {"takes": Decision, "gives": AccessView, "headers": IF_MATCH}
        return (
            Route("POST", _AT, "caller", self._ask, takes=Asking, gives=AccessView, status=201),
            Route("GET", _AT, "operator", self._list, EVERYONE, gives=Page[AccessView], query=filters),
            Route("GET", f"{_AT}/me", "caller", self._own, gives=OwnAccess),
            Route("GET", one, "operator", self._read, EVERYONE, gives=AccessView),
            Route("POST", f"{one}/approve", "operator", self._approve, OWNERS, **deciding),
            Route("POST", f"{one}/decline", "operator", self._decline, OWNERS, **deciding),
        )

    async def _ask(self, request: ManagementRequest) -> Response:
        """Ask for a product, or for higher limits."""
        caller = request.consumer
        record = await self._consumers.find(caller.id)
        if record is None:  # its row is written beside its first call
            raise StoreUnavailable("This caller is new and not recorded yet. Ask again in a few seconds.")
        asking = checked(request.object(), Asking)
        new = requests.new_request(asking, caller, record.consumer.team, self._configuration(), self._store.now())
        wish = {"product": asking.product, "limits": msgspec.to_builtins(new.limits), "reason": new.reason}
        await self._table.check(new)  # before there is a record of it, which callers could fill
        change = Change(request, "access.ask", caller.id, None, wish)
        written = await self._audit.perform(change, lambda: self._table.add(new))
        self._alert(events.access_requested(written.id, written.name, written.wish, written.reason, written.asked))
        return JsonResponse(requests.view(written, own=True), 201)

    async def _own(self, request: ManagementRequest) -> Response:
        """List the caller's requests, and what it may ask for."""
        caller = request.consumer
        record, configuration = await self._consumers.find(caller.id), self._configuration()
        team = record.consumer.team if record is not None else ""
        views = [requests.view(one, own=True) for one in reversed(await self._table.of(caller.id))]
        may = requests.products_for(caller, team, configuration)
        return JsonResponse(OwnAccess(data=views, products=may, limits=requests.limits_for(caller, configuration)))

    async def _list(self, request: ManagementRequest) -> Response:
        """List the requests that the operator may see, the newest first."""
        query = request.query
        if (state := query.get("state")) is not None and state not in STATES:
            raise InvalidRequest(f"state: expected {', '.join(STATES)}; got {state[:64]!r}.", param="state")
        visible = [
            one
            async for one in self._table.all()
            if request.actor.sees(one.team)
            and state in (None, one.state)
            and query.get("consumer", one.consumer) == one.consumer
        ]
        return JsonResponse(page(sorted(visible, key=_place), query, _place, requests.view))

    async def _read(self, request: ManagementRequest) -> Response:
        """Read a request."""
        return _answer(await self._visible(request))

    async def _approve(self, request: ManagementRequest) -> Response:
        """Approve a request: the consumer gets the product or the limits."""
        return await self._decide(request, "approved", self._approved)

    async def _decline(self, request: ManagementRequest) -> Response:
        """Decline a request, with a reason."""
        return await self._decide(request, "declined", self._declined)

    async def _decide(
        self,
        request: ManagementRequest,
        decision: Literal["approved", "declined"],
        carry_out: Callable[[ManagementRequest, AccessRequest, str], Awaitable[AccessRequest | None]],
    ) -> Response:
        """Decide the newest state of a request, again if another operator was faster."""
        reason = requests.sentence(checked(request.object() if request.body else {}, Decision).reason)
        for attempt in range(TRIES):
            one = await self._visible(request)
            request.actor.require_team(one.team)
            request.require_match(etag_of(one))
            requests.decidable(one, decision, self._store.now())
            done = await carry_out(request, one, reason)
            if done is not None:
                about = (done.id, done.name, done.wish, done.answer, done.decided)
                self._alert(events.access_decided(*about, approved=decision == "approved"))
                return _answer(done)
            await pause(attempt)
        raise contended(f"The request {request.parameters['request']}")

    async def _declined(self, request: ManagementRequest, one: AccessRequest, reason: str) -> AccessRequest | None:
        new = self._decided(request, one, "declined", reason)
        change = Change(request, "access.decline", one.id, _view(one), _view(new))
        return await self._audit.perform(change, lambda: self._table.replace(one, new))

    async def _approved(self, request: ManagementRequest, one: AccessRequest, reason: str) -> AccessRequest | None:
        of_consumer = msgspec.structs.replace(request, parameters={"consumer": one.consumer}, headers={})
        claim = self._decided(request, one, "approving", reason)
        new = msgspec.structs.replace(claim, state="approved")

        async def write() -> AccessRequest | None:
            if await self._table.replace(one, claim) is None:
                return None
            try:
                await self._changes.change(of_consumer, _edit(one))
            except GatewayError as error:
                if error.status < 500:  # else it may have been done, and the next approval completes it
                    await self._table.replace(claim, msgspec.structs.replace(one, mark=secrets.token_hex(8)))
                raise
            return await self._table.replace(claim, new)

        change = Change(request, "access.approve", one.id, _view(one), _view(new))
        return await self._audit.perform(change, write)

    def _decided(
        self, request: ManagementRequest, one: AccessRequest, state: Literal["approving", "declined"], reason: str
    ) -> AccessRequest:
        decision: dict[str, Any] = {"state": state, "answer": reason, "decided": self._store.now()}
        return msgspec.structs.replace(one, **decision, by=request.actor.name, mark=secrets.token_hex(8))

    async def _visible(self, request: ManagementRequest) -> AccessRequest:
        """The request of the path. One of another team is not there for a team's owner."""
        one = await self._table.find(request.parameters["request"])
        if not request.actor.sees(one.team):
            raise missing(one.id)
        return one


def _edit(one: AccessRequest) -> Edit:
    def edit(rules: Rules, old: Record | None) -> Record:
        assert old is not None
        return rules.patch(old, requests.patch_of(one, old))

    return edit


def _answer(one: AccessRequest) -> Response:
    return JsonResponse(requests.view(one), headers={"etag": etag_of(one)})


def _view(one: AccessRequest) -> Any:
    return msgspec.to_builtins(requests.view(one))


def _place(one: AccessRequest) -> str:
    """The place of a request in a list, the newest first."""
    return f"{names.newest_first(one.asked)}-{one.id}"
