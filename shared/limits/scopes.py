"""The limits that apply to a call: of its key, of the key on that model, of its team, of its product, of the
user behind the key, and of the model. Pure."""

import calendar
import functools
import math
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo

import msgspec

from shared.config.document import Configuration
from shared.config.limits import AddressLimits, Limits, Period, merged
from shared.limits._amounts import Bound, Bounds
from shared.types import Consumer

_TOKENS_PER_SHARD = 1_000_000  # a minute; one row takes some tens of writes a second
_MOST_SHARDS = 16
_QUARTER = 900  # seconds: every zone's periods begin at a quarter of an hour
_YEAR_ONE = 62_135_596_800  # seconds from its first day to 1970
ADDRESS, USER = "address", "user"  # kinds of scopes whose number is not bounded
_SUCCESSES = "-successes"  # ends the kind in the key of a quota that counts them alone

_OF_CALLS = frozenset(Limits.__struct_fields__)

Dimensions = tuple[bool, bool, bool, bool]
_DIMENSIONS: dict[Dimensions, Dimensions] = {}  # each only once in memory, since there may be many keys


class Scope(msgspec.Struct, frozen=True, gc=False):
    """Something that is limited. `key`: its partition in the table; `name` and `model`: its names in messages;
    `shards`: the number of rows that divide its limits; `limited`: True for each dimension with a limit."""

    key: str
    name: str
    model: str
    limits: Limits
    shards: int
    limited: Dimensions

    @property
    def kind(self) -> str:
        return self.key.partition(":")[0].removesuffix(_SUCCESSES)

    @property
    def counts_successes(self) -> bool:
        """True for a quota of requests that counts successful calls alone, and is the only limit of its scope."""
        return self.limits.quota_counts == "success"

    @property
    def logged(self) -> str:
        return for_log(self.key)

    @property
    def about(self) -> str:
        """Its name in a message."""
        name = {
            "key": f"The key of {self.name!r}",
            "team": f"The team {self.name!r}",
            "model": f"The model {self.name} here",
        }.get(self.kind, f"The {self.kind} {self.name}")
        return f"{name} on {self.model}" if self.model else name

    @property
    def has_quota(self) -> bool:
        return bool(self.limits.token_quota or self.limits.request_quota or self.limits.budget_usd)


def for_log(key: str) -> str:
    """The key of a scope for the log, which has no names of users."""
    return key.partition("+")[0] if key.startswith(prefixes(USER)) else key


def prefixes(kind: str) -> tuple[str, ...]:
    """The beginnings of the keys of such scopes."""
    return f"{kind}:", f"{kind}{_SUCCESSES}:"


class PeriodBounds(NamedTuple):
    """A period, in seconds since 1970."""

    since: float
    until: float


def scope(kind: str, identity: str, limits: Limits, name: str = "", model: str = "") -> Scope:
    """A scope with a valid partition key, whatever characters `identity` and `model` have."""
    key = f"{kind}:{quote(f'{identity}+{model}' if model else identity, safe=' @+,=:')}"[:512]
    return Scope(key, name or identity, model, limits, _shards(limits), _dimensions(limits))


def _shards(limits: Limits) -> int:
    """The number of rows for these limits. Quotas and slots are not divided: a part of them may be too small."""
    if limits.token_quota or limits.request_quota or limits.budget_usd or limits.max_concurrent:
        return 1
    return min(_MOST_SHARDS, max(1, math.ceil((limits.tokens_per_minute or 0) / _TOKENS_PER_SHARD)))


def of_address(network: str, limits: AddressLimits) -> list[Scope]:
    """The limits of all callers at one address together, beside its connections, which each process counts alone."""
    shared = {name: value for name, value in msgspec.structs.asdict(limits).items() if name in _OF_CALLS}
    return counted(scope(ADDRESS, network, Limits(**shared)))


def counted(whole: Scope) -> list[Scope]:
    """A scope, in two parts if its quota of requests counts successful calls alone: its rates count all calls."""
    limits, kind = whole.limits, whole.key.partition(":")[0]
    if limits.quota_counts != "success":
        return [whole]
    if not limits.request_quota:
        return [_with(whole, whole.key, msgspec.structs.replace(limits, quota_counts=None))]
    rates = msgspec.structs.replace(limits, request_quota=None, request_quota_period=None, quota_counts=None)
    quota = Limits(
        request_quota=limits.request_quota,
        request_quota_period=limits.request_quota_period,
        quota_counts="success",
        time_zone=limits.time_zone,
        soft=limits.soft,
    )
    return [_with(whole, whole.key, rates), _with(whole, whole.key.replace(kind, kind + _SUCCESSES, 1), quota)]


def _with(whole: Scope, key: str, limits: Limits) -> Scope:
    return Scope(key[:512], whole.name, whole.model, limits, _shards(limits), _dimensions(limits))


def of_call(consumer: Consumer, model: str, configuration: Configuration, user: str = "") -> list[Scope]:
    """Everything that limits this consumer's calls to this model, for this user behind the key. `model` "": no model in
    particular; `user` "": none is named."""
    settings, name = configuration.limits, consumer.name
    of_key = merged(settings.defaults, consumer.limits)
    scopes = [scope("key", consumer.id, of_key, name)]
    if own := consumer.model_limits.get(model):
        scopes.append(scope("key", consumer.id, _with_settings_of(of_key, own), name, model))
    if team := configuration.team_limits.get(consumer.team):
        scopes.append(scope("team", consumer.team, team))
    if product := configuration.products.get(consumer.product):
        bundle = consumer.product
        scopes.append(scope("product", f"{bundle}+{consumer.id}", product.limits, f"{bundle!r} for {name!r}"))
        scopes.append(scope("product", bundle, product.shared_limits, f"{bundle!r} for all its subscribers"))
    if user:
        scopes.append(scope(USER, f"{consumer.id}+{user}", settings.users, f"{user!r} of {name!r}"))
    if (about := configuration.models.get(model)) and about.limits:
        scopes.append(scope("model", model, about.limits))
    return [part for scope in scopes for part in counted(scope) if any(part.limited)]


def as_called(keys: Collection[str], consumer: Consumer) -> Consumer:
    """A consumer as an earlier call had it. The keys of the scopes that limited the call have its team, which may be
    from a rule, and its product."""
    team = next((unquote(key.partition(":")[2]) for key in keys if key.startswith("team:")), "")
    product = next((key.partition(":")[2].partition("+")[0] for key in keys if key.startswith("product:")), "")
    return msgspec.structs.replace(consumer, team=team, product=product)


def with_keys(keys: Collection[str], consumer: Consumer, model: str, configuration: Configuration) -> list[Scope]:
    """Those with these keys, which limited an earlier call of this consumer to this model, for the user in the
    keys."""
    user = next((unquote(key).partition("+")[2] for key in keys if key.startswith(f"{USER}:")), "")
    limited = of_call(as_called(keys, consumer), model, configuration, user)
    for key in keys:
        if key.startswith(f"{ADDRESS}:"):
            limited += of_address(unquote(key.partition(":")[2]), configuration.limits.addresses)
    return [scope for scope in limited if scope.key in keys]


def of_all(consumers: Iterable[Consumer], configuration: Configuration) -> Iterator[Scope]:
    """Everything that limits these consumers' calls, by any of their subscriptions, each once."""
    seen: set[str] = set()
    for consumer in consumers:
        for product in consumer.products or ("",):
            subscriber = msgspec.structs.replace(consumer, product=product)
            for model in ("", *consumer.model_limits, *configuration.models):
                for scope in of_call(subscriber, model, configuration):
                    if scope.key not in seen:
                        seen.add(scope.key)
                        yield scope


def _with_settings_of(of_key: Limits, of_model: Limits) -> Limits:
    """Limits on a model. Settings that are not limits are the key's, unless these limits have their own."""
    return msgspec.structs.replace(
        of_model,
        time_zone=of_model.time_zone or of_key.time_zone,
        estimate=of_model.estimate or of_key.estimate,
        quota_counts=of_model.quota_counts or of_key.quota_counts,
        soft=of_model.soft if of_model.soft is not None else of_key.soft,
    )


def is_limited(limits: Limits) -> bool:
    return any(_dimensions(limits))


def _dimensions(limits: Limits) -> Dimensions:
    """True for each of requests, tokens, money and slots that is limited; 0 means no limit."""
    limited = (
        bool(limits.requests_per_minute or limits.request_quota),
        bool(limits.tokens_per_minute or limits.token_quota),
        bool(limits.budget_usd),
        bool(limits.max_concurrent),
    )
    return _DIMENSIONS.setdefault(limited, limited)


def bounds(limits: Limits, now: float, parts: int = 1) -> Bounds:
    """The limits as bounds per dimension, divided by the number of shards. Cached: each is only once in memory."""
    periods = (limits.request_quota_period, limits.token_quota_period, limits.budget_period)
    step = math.gcd(_QUARTER, *(period for period in periods if isinstance(period, int)))
    return _bounds_of(limits, int(now // step) * step, parts)


@functools.lru_cache(maxsize=4096)
def _bounds_of(limits: Limits, now: int, parts: int) -> Bounds:
    """The bounds at a time at which a period may begin."""
    zone = limits.time_zone or "UTC"
    requests = _bound(limits.requests_per_minute, limits.request_quota, limits.request_quota_period or "day", zone, now)
    tokens = _bound(limits.tokens_per_minute, limits.token_quota, limits.token_quota_period or "month", zone, now)
    usd = _bound(None, limits.budget_usd, limits.budget_period or "month", zone, now)
    slots = Bound(float(limits.max_concurrent), math.inf) if limits.max_concurrent else None
    whole = (requests, tokens, usd, slots)
    return whole if parts == 1 else tuple(bound and bound.share(parts) for bound in whole)


def _bound(per_minute: float | None, quota: float | None, period: Period, zone: str, now: float) -> Bound | None:
    if not per_minute and not quota:
        return None
    cap = float(per_minute) if per_minute else math.inf
    if not quota:
        return Bound(cap, cap / 60)
    since, until = period_of(period, zone, now)
    return Bound(cap, cap / 60 if per_minute else 0.0, float(quota), since, until)


def period_of(period: Period, zone: str, now: float) -> PeriodBounds:
    """The hour, day, week (from Monday) or month of `now` in that time zone; one of so many seconds in any."""
    if isinstance(period, int):
        since = int(now) - (int(now) + _YEAR_ONE) % period
        return PeriodBounds(since, since + period)
    return _period_of(period, zone, int(now // _QUARTER))


@functools.lru_cache(maxsize=1024)
def _period_of(period: str, zone: str, quarter: int) -> PeriodBounds:
    moment = datetime.fromtimestamp(quarter * _QUARTER, UTC)
    if period == "hour":
        # Counted in elapsed seconds: an hour that is repeated when summer time ends is two hours.
        local = moment.astimezone(ZoneInfo(zone))
        since = moment - timedelta(minutes=local.minute, seconds=local.second)
        return PeriodBounds(since.timestamp(), since.timestamp() + 3600)
    day = moment.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        first, days = day, 1
    elif period == "week":
        first, days = day - timedelta(days=day.weekday()), 7
    else:
        first = day.replace(day=1)
        days = calendar.monthrange(day.year, day.month)[1]
    return PeriodBounds(_midnight(first, zone), _midnight(first + timedelta(days=days), zone))


def _midnight(day: datetime, zone: str) -> float:
    """The beginning of a day, from the time zone: the difference of two dates ignores summer time."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()
