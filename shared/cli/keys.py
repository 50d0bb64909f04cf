"""`keys`: consumers, their keys and their limits."""

import functools
import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from shared.auth.client_address import networks
from shared.auth.consumers import Consumers, when
from shared.cli._terminal import AsJson, Identified, fail, find, settings, show, with_store
from shared.config.document import Backend, Limits, limit_complaints
from shared.limits import scopes
from shared.storage import Store
from shared.types import ANYWHERE, Access

commands = typer.Typer(no_args_is_help=True, help="Consumers and their keys.")


class PeriodName(StrEnum):
    hour = "hour"
    day = "day"
    week = "week"
    month = "month"


class EstimateName(StrEnum):
    max = "max"
    learned = "learned"


_AMOUNT = Annotated[int | None, typer.Option(min=0, help="0: no limit, whatever the configuration says.")]
_PERIOD = Annotated[PeriodName | None, typer.Option(help="When the quota begins anew.")]
AddressesOption = Annotated[
    str | None,
    typer.Option(help="Networks it may call from, separated by commas, e.g. 10.0.0.0/8,2001:db8::/32; any: all."),
]
RegionsOption = Annotated[
    str | None, typer.Option(help="Regions its calls may go to, separated by commas; all: any region.")
]
DataZonesOption = Annotated[
    str | None, typer.Option(help="Data zones its calls may go to, separated by commas; all: any zone.")
]
PinOption = Annotated[
    bool | None, typer.Option("--pin/--no-pin", help="It may choose the backend by the header x-gateway-backend.")
]
ExplainOption = Annotated[
    bool | None, typer.Option("--explain/--no-explain", help="It may ask why a call went where it went.")
]
_OF_LIMITS: dict[str, Any] = {
    "tokens_per_minute": _AMOUNT,
    "requests_per_minute": _AMOUNT,
    "token_quota": _AMOUNT,
    "token_quota_period": _PERIOD,
    "request_quota": _AMOUNT,
    "request_quota_period": _PERIOD,
    "budget_usd": Annotated[float | None, typer.Option(min=0, help="USD; 0: no limit.")],
    "budget_period": _PERIOD,
    "max_concurrent": _AMOUNT,
    "time_zone": Annotated[str | None, typer.Option(help="By whose clocks periods begin, e.g. Europe/Berlin.")],
    "soft": Annotated[bool | None, typer.Option("--soft/--hard", help="Tell what exceeds a limit, or refuse it.")],
    "estimate": Annotated[
        EstimateName | None,
        typer.Option(help="Tokens reserved for an answer: all it may have, or what such calls took."),
    ],
}


def with_limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every limit; its `limits` are what was given of them."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        told = {name: value for name in _OF_LIMITS if (value := given.pop(name)) is not None}
        limits = msgspec.convert(told, Limits)
        if complaint := next(limit_complaints(limits), None):
            fail("--" + complaint.replace("_", "-", 2))
        command(limits=limits, **given)

    own = inspect.signature(command)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OF_LIMITS.items()
    ]
    others = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()]
    parameters = [*(other for other in others if other.name != "limits"), *options]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@commands.command()
@with_limit_options
def create(
    limits: Limits,
    name: Annotated[str, typer.Argument(help="Who will use the key, e.g. a team or an application.")],
    team: Annotated[str, typer.Option(help="The team of the configuration whose limits it shares.")] = "",
    models: Annotated[str | None, typer.Option(help="Models it may use, separated by commas; default: all.")] = None,
    addresses: AddressesOption = None,
    regions: RegionsOption = None,
    data_zones: DataZonesOption = None,
    pin: PinOption = None,
    explain: ExplainOption = None,
    expires: Annotated[
        datetime | None, typer.Option(help="End of its validity, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a consumer and its first key, which is shown once."""
    access = _access(ANYWHERE, regions, data_zones, pin, explain)
    name = name.strip()
    if not name or len(name) > 128 or not name.isprintable():
        fail("NAME: expected 1 to 128 printable characters")
    if team and team not in (teams := settings().configuration.limits.teams):
        fail(f"--team: expected one of {', '.join(sorted(teams)) or 'limits.teams, which has none'}, got {team}")
    allowed, from_where = _models(models), _networks(addresses) or ()
    ends = expires.replace(tzinfo=UTC).timestamp() if expires else 0.0

    async def run(store: Store) -> None:
        consumer, text = await Consumers(store).create(
            name, models=allowed, limits=limits, expires=ends, team=team, addresses=from_where, access=access
        )
        _show_key(consumer.id, text, name, as_json)

    with_store(run)


@commands.command("set")
@with_limit_options
def change_limits(
    limits: Limits,
    identified: Identified,
    addresses: AddressesOption = None,
    regions: RegionsOption = None,
    data_zones: DataZonesOption = None,
    pin: PinOption = None,
    explain: ExplainOption = None,
    model: Annotated[str, typer.Option(help="Hold these limits on this model, beside those of the key.")] = "",
    clear: Annotated[
        bool, typer.Option("--clear", help="Forget those it has: what is not given is as configured.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Change a consumer's limits, where it may call from, or where its calls may go. Effective everywhere within
    60 seconds."""
    from_where = _networks(addresses)
    if model:
        _models(model)
        model = settings().configuration.canonical(model)

    async def run(store: Store) -> None:
        record = await find(store, identified)
        consumer = record.consumer
        old = Limits() if clear else consumer.model_limits.get(model, Limits()) if model else consumer.limits
        changed = scopes.merged(old, limits)
        access = _access(consumer.access, regions, data_zones, pin, explain)
        await Consumers(store).change_limits(record, changed, model)
        if from_where is not None:
            await Consumers(store).change_addresses(record, from_where)
        if access != consumer.access:
            await Consumers(store).change_access(record, access)
        answer = {
            "id": consumer.id,
            "name": consumer.name,
            "limits": msgspec.to_builtins(changed),
            "addresses": list(consumer.addresses if from_where is None else from_where),
            "access": msgspec.to_builtins(access),
        }
        print(json.dumps(answer) if as_json else f"Changed the limits of {consumer.name}, effective within 60 seconds.")

    with_store(run)


@commands.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Every consumer, without its secrets."""

    async def run(store: Store) -> None:
        now = store.now()
        rows = [
            {
                "id": record.consumer.id,
                "name": record.consumer.name,
                "state": "active" if record.active_at(now) else "revoked or expired",
                "keys": sum(key.valid_at(now) for key in record.keys.values()),
                "models": ",".join(sorted(record.consumer.models)) if record.consumer.models is not None else "all",
                "addresses": ",".join(record.consumer.addresses) or "any",
                "requests_per_minute": record.consumer.limits.requests_per_minute,
                "tokens_per_minute": record.consumer.limits.tokens_per_minute,
                "created": when(record.created),
            }
            for record in await Consumers(store).all()
        ]
        heads = ["id", "name", "state", "keys", "models", "addresses"]
        heads += ["requests_per_minute", "tokens_per_minute", "created"]
        show(rows, heads, as_json)

    with_store(run)


@commands.command()
def revoke(identified: Identified, as_json: AsJson = False) -> None:
    """End all keys of a consumer. Effective everywhere within 60 seconds."""

    async def run(store: Store) -> None:
        record = await find(store, identified)
        await Consumers(store).revoke(record)
        answer = {"id": record.consumer.id, "name": record.consumer.name, "revoked": True}
        print(
            json.dumps(answer)
            if as_json
            else f"Revoked {record.consumer.name} ({record.consumer.id}), effective within 60 seconds."
        )

    with_store(run)


@commands.command()
def rotate(
    identified: Identified,
    grace_hours: Annotated[
        float, typer.Option(min=0, max=24 * 90, help="Hours for which the old key goes on working.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a new key for a consumer and end the old one: its usage and limits stay together."""

    async def run(store: Store) -> None:
        record = await find(store, identified)
        text = await Consumers(store).rotate(record, grace=grace_hours * 3600)
        _show_key(record.consumer.id, text, record.consumer.name, as_json)

    with_store(run)


def _show_key(consumer_id: str, text: str, name: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": consumer_id, "key": text, "name": name}))
    else:
        print(
            f"id    {consumer_id}\nname  {name}\nkey   {text}\n\n"
            "Keep the key now: it is stored as a hash and cannot be shown again."
        )


def _networks(text: str | None) -> tuple[str, ...] | None:
    """The networks of a policy; none for `any`."""
    if text is None or text.strip() == "any":
        return None if text is None else ()
    try:
        return networks(text.split(","))
    except ValueError as error:
        fail(f"--addresses: expected networks such as 10.0.0.0/8, separated by commas, or any: {error}")


def _access(old: Access, regions: str | None, data_zones: str | None, pin: bool | None, explain: bool | None) -> Access:
    """A policy's access with what a command's options change in it."""
    return Access(
        regions=old.regions if regions is None else _places("--regions", regions, lambda backend: backend.region),
        data_zones=old.data_zones
        if data_zones is None
        else _places("--data-zones", data_zones, lambda backend: backend.data_zone),
        pin=old.pin if pin is None else pin,
        explain=old.explain if explain is None else explain,
    )


def _places(option: str, text: str, of: Callable[[Backend], str | None]) -> frozenset[str] | None:
    """Regions or zones, checked against the configuration; None for all."""
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    if wanted == {"all"}:
        return None
    known = {place for backend in settings().configuration.backends if (place := of(backend))}
    if not wanted or wanted - known:
        got = ", ".join(sorted(wanted - known)) or "none"
        fail(f"{option}: expected all, or some of {', '.join(sorted(known)) or 'none that a backend has'}, got {got}")
    return wanted


def _models(text: str | None) -> frozenset[str] | None:
    """The models of a policy, checked against the configuration: a typo would silently allow nothing."""
    if text is None:
        return None
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    configuration = settings().configuration
    aliases = {alias for about in configuration.models.values() for alias in about.aliases}
    known = set(configuration.model_names()) | aliases
    if not wanted or wanted - known:
        fail(
            f"--models: expected some of {', '.join(sorted(known))}, got {', '.join(sorted(wanted - known)) or 'none'}"
        )
    return wanted
