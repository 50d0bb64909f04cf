"""Requests for access as values: what callers may ask for, and the effect of a decision."""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.auth import keys
from shared.auth.consumer_rows import Record
from shared.auth.products import is_open_to
from shared.config.document import Configuration
from shared.config.limits import Limits, merged
from shared.errors import AlreadyDecided, InvalidRequest
from shared.management.routes import rfc3339
from shared.types import Consumer

State = Literal["open", "approving", "approved", "declined"]
STATES: tuple[State, ...] = ("open", "approving", "approved", "declined")

_TAKEN_OVER_AFTER = 60.0  # seconds after which another operator completes an approval that broke off

_Amount = Annotated[int, Meta(ge=1, le=10**15)]
_Reason = Annotated[str, Meta(max_length=300)]


class Amounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The limits that a caller may ask for. Periods stay as they are."""

    requests_per_minute: _Amount | None = None
    tokens_per_minute: _Amount | None = None
    token_quota: _Amount | None = None
    request_quota: _Amount | None = None
    budget_usd: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    max_concurrent: _Amount | None = None

    def by_name(self) -> dict[str, float]:
        """The limits that are asked for, by name."""
        amounts: dict[str, float] = msgspec.to_builtins(self)
        return amounts


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request as a caller sends it: for a product, or for higher limits."""

    product: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    limits: Amounts | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=300)]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words of a decision, which the caller reads."""

    reason: _Reason = ""


class AccessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as stored. `name`, `team` and `products` were the consumer's when it asked. `by`, `answer` and
    `decided` are of the decision; `mark` is its writer's. Times in seconds since 1970."""

    number: int
    consumer: str
    name: str
    team: str
    products: tuple[str, ...] = ()
    product: str = ""
    limits: Amounts = Amounts()
    reason: str
    asked: float
    state: State = "open"
    by: str = ""
    answer: str = ""
    decided: float = 0.0
    mark: str

    @property
    def id(self) -> str:
        return f"{self.consumer}.{self.number}"

    @property
    def wish(self) -> str:
        """The subject of the request in words."""
        if self.product:
            return f"the product {self.product!r}"
        return ", ".join(f"{name} of {value:g}" for name, value in self.limits.by_name().items())


class AccessView(msgspec.Struct, frozen=True, kw_only=True):
    """A request for access. `reason`: the caller's; `answer`: that of the decision. `by`: the operator who decided, for
    operators."""

    id: str
    consumer: str
    name: str
    team: str
    product: str | None
    limits: Amounts
    reason: str
    asked: str | None
    state: State
    decided: str | None
    by: str | None
    answer: str | None


_SHOWN_AS_THEY_ARE = ("id", "consumer", "name", "team", "limits", "reason", "state")


def view(one: AccessRequest, *, own: bool = False) -> AccessView:
    """A request as operators see it, or its own caller."""
    same: dict[str, Any] = {name: getattr(one, name) for name in _SHOWN_AS_THEY_ARE}
    asked, decided, by = rfc3339(one.asked), rfc3339(one.decided), None if own else one.by or None
    return AccessView(
        **same, product=one.product or None, asked=asked, decided=decided, by=by, answer=one.answer or None
    )


def new_request(asking: Asking, caller: Consumer, team: str, configuration: Configuration, now: float) -> AccessRequest:
    """The request of a caller, which has no number yet. `team`: the one of the consumer's row. Raises
    `InvalidRequest`."""
    if (asking.product is None) == (asking.limits is None):
        raise InvalidRequest("Expected either product or limits.")
    if asking.product is not None and asking.product not in (may := products_for(caller, team, configuration)):
        expected = ", ".join(may) or "none: no other product is open"
        raise InvalidRequest(f"product: expected {expected}; got {asking.product!r}.", param="product")
    if asking.limits is not None:
        _require_higher(asking.limits, merged(configuration.limits.defaults, caller.limits))
    return AccessRequest(
        number=0,
        consumer=caller.id,
        name=caller.name,
        team=team,
        products=caller.products,
        product=asking.product or "",
        limits=asking.limits or Amounts(),
        reason=sentence(asking.reason),
        asked=now,
        mark=secrets.token_hex(8),
    )


def products_for(caller: Consumer, team: str, configuration: Configuration) -> list[str]:
    """The products that a caller may ask for: open to its team, and not its own yet."""
    products = configuration.products
    return [name for name, one in products.items() if is_open_to(one, team) and name not in caller.products]


def limits_for(caller: Consumer, configuration: Configuration) -> dict[str, float]:
    """The caller's limits that it may ask to be raised."""
    own = merged(configuration.limits.defaults, caller.limits)
    return {name: value for name in Amounts.__struct_fields__ if (value := getattr(own, name))}


def _require_higher(amounts: Amounts, own: Limits) -> None:
    by_name = amounts.by_name()
    if not by_name:
        expected = ", ".join(Amounts.__struct_fields__)
        raise InvalidRequest(f"limits: expected at least one of {expected}.", param="limits")
    for name, value in by_name.items():
        now = getattr(own, name)
        if not now:
            raise InvalidRequest(f"limits.{name}: you have no such limit.", param=f"limits.{name}")
        if value <= now:
            message = f"limits.{name}: expected more than the current {now:g}, got {value:g}."
            raise InvalidRequest(message, param=f"limits.{name}")


def sentence(text: str, field: str = "reason") -> str:
    """A reason in one line. Raises `InvalidRequest`."""
    line = text.strip()
    if not line.isprintable() or (field == "reason" and text and not line):
        raise InvalidRequest(f"{field}: expected at most 300 printable characters in one line.", param=field)
    if any(keys.parse(word) for word in line.split()):
        raise InvalidRequest(f"{field}: it contains a key. Remove it.", param=field)
    return line


def patch_of(one: AccessRequest, record: Record) -> dict[str, Any]:
    """The merge patch by which an approval changes a consumer. It lowers nothing, and is the same if it is made
    twice."""
    consumer = record.consumer
    if one.product:
        return {"products": list(dict.fromkeys((*(consumer.products or one.products), one.product)))}
    raised: dict[str, float] = {}
    for name, value in one.limits.by_name().items():
        own = getattr(consumer.limits, name)
        raised[name] = own if own == 0 else max(own or 0, value)
    return {"limits": raised}


def decidable(one: AccessRequest, decision: Literal["approved", "declined"], now: float) -> None:
    """Raise `AlreadyDecided` if it is too late for a decision. An approval that broke off can only be completed."""
    if one.state in ("approved", "declined"):
        raise AlreadyDecided(f"The request {one.id} was {one.state} by {one.by} on {rfc3339(one.decided)}.")
    if one.state == "approving" and (decision == "declined" or now < one.decided + _TAKEN_OVER_AFTER):
        raise AlreadyDecided(
            f"{one.by} is approving the request {one.id}. If that was interrupted, approve it again after "
            f"{_TAKEN_OVER_AFTER:.0f} s."
        )
