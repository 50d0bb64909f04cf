"""`keys`: consumers, their keys and their limits."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import typer

from shared.auth.client_address import networks
from shared.auth.consumers import Consumers, when
from shared.cli._terminal import AsJson, Identified, fail, find, settings, show, with_store
from shared.config.document import Backend, Limits, Period, merged, time_zone_problem
from shared.storage import Store
from shared.types import ANYWHERE, Access

commands = typer.Typer(no_args_is_help=True, help="Consumers and their keys.")

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
    bool | None, typer.Option("--pin/--no-pin", help="Allow it to choose the backend by the header x-gateway-backend.")
]
ExplainOption = Annotated[
    bool | None, typer.Option("--explain/--no-explain", help="Allow it to ask why a call went to a backend.")
]
WholeAccountOption = Annotated[
    bool | None,
    typer.Option(
        "--whole-account/--no-whole-account",
        help="Allow it batches and evals that may read the objects of all keys.",
    ),
]
_PANEL = "Limits"
LimitOption = Annotated[
    int | None, typer.Option(min=0, help="0: no limit, whatever the configuration says.", rich_help_panel=_PANEL)
]
BudgetOption = Annotated[float | None, typer.Option(min=0, help="USD; 0: no limit.", rich_help_panel=_PANEL)]
PeriodOption = Annotated[Period | None, typer.Option(help="Period of the quota or budget.", rich_help_panel=_PANEL)]
TimeZoneOption = Annotated[
    str | None, typer.Option(help="Time zone of the periods, e.g. Europe/Berlin.", rich_help_panel=_PANEL)
]
SoftOption = Annotated[
    bool | None,
    typer.Option("--soft/--hard", help="Report calls over a limit, or reject them.", rich_help_panel=_PANEL),
]
EstimateOption = Annotated[
    Literal["max", "learned"] | None,
    typer.Option(help="Output tokens reserved for a call: its maximum, or the average.", rich_help_panel=_PANEL),
]


@commands.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The user of the key, e.g. a team or an application.")],
    team: Annotated[str, typer.Option(help="Team of the configuration whose limits it shares.")] = "",
    models: Annotated[str | None, typer.Option(help="Models it may use, separated by commas; default: all.")] = None,
    addresses: AddressesOption = None,
    regions: RegionsOption = None,
    data_zones: DataZonesOption = None,
    pin: PinOption = None,
    explain: ExplainOption = None,
    whole_account: WholeAccountOption = None,
    expires: Annotated[
        datetime | None, typer.Option(help="End of its validity, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
    ] = None,
    as_json: AsJson = False,
    tokens_per_minute: LimitOption = None,
    requests_per_minute: LimitOption = None,
    token_quota: LimitOption = None,
    token_quota_period: PeriodOption = None,
    request_quota: LimitOption = None,
    request_quota_period: PeriodOption = None,
    budget_usd: BudgetOption = None,
    budget_period: PeriodOption = None,
    max_concurrent: LimitOption = None,
    time_zone: TimeZoneOption = None,
    soft: SoftOption = None,
    estimate: EstimateOption = None,
) -> None:
    """Create a consumer and its first key, which is shown once."""
    limits = _limits(context)
    access = _access(ANYWHERE, regions, data_zones, pin, explain, whole_account)
    name = name.strip()
    if not name or len(name) > 128 or not name.isprintable():
        fail("NAME: expected 1 to 128 printable characters")
    if team and team not in (teams := settings().configuration.team_limits):
        fail(f"--team: expected one of {', '.join(sorted(teams)) or 'teams, which is empty'}, got {team}")
    allowed, sources = _models(models), _networks(addresses) or ()
    ends = expires.replace(tzinfo=UTC).timestamp() if expires else 0.0

    async def run(store: Store) -> None:
        if expires and ends <= store.now():
            fail(f"--expires: expected a time in the future, UTC, got {expires:%Y-%m-%dT%H:%M:%S}")
        if same := [r for r in await Consumers(store).all() if name in (r.consumer.id, r.consumer.name)]:
            fail(f"NAME: expected a new name, but {same[0].consumer.id} has it (see: tollgate keys list)")
        consumer, key = await Consumers(store).create(
            name, models=allowed, limits=limits, expires=ends, team=team, addresses=sources, access=access
        )
        _show_key(consumer.id, key, name, as_json)

    with_store(run)


@commands.command("set")
def change(
    context: typer.Context,
    identified: Identified,
    addresses: AddressesOption = None,
    regions: RegionsOption = None,
    data_zones: DataZonesOption = None,
    pin: PinOption = None,
    explain: ExplainOption = None,
    whole_account: WholeAccountOption = None,
    model: Annotated[str, typer.Option(help="Set the limits on this model, in addition to those of the key.")] = "",
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove its limits first: those not given are as configured.")
    ] = False,
    as_json: AsJson = False,
    tokens_per_minute: LimitOption = None,
    requests_per_minute: LimitOption = None,
    token_quota: LimitOption = None,
    token_quota_period: PeriodOption = None,
    request_quota: LimitOption = None,
    request_quota_period: PeriodOption = None,
    budget_usd: BudgetOption = None,
    budget_period: PeriodOption = None,
    max_concurrent: LimitOption = None,
    time_zone: TimeZoneOption = None,
    soft: SoftOption = None,
    estimate: EstimateOption = None,
) -> None:
    """Change the limits of a consumer, where it may call from, or where its calls may go. Takes effect everywhere
    within 60 seconds."""
    limits = _limits(context)
    sources = _networks(addresses)
    if model:
        _models(model)
        model = settings().configuration.canonical(model)

    async def run(store: Store) -> None:
        record = await find(store, identified)
        consumer = record.consumer
        old = consumer.model_limits.get(model, Limits()) if model else consumer.limits
        changed = merged(Limits() if clear else old, limits)
        access = _access(consumer.access, regions, data_zones, pin, explain, whole_account)
        if moves := changed != old:
            await Consumers(store).change_limits(record, changed, model)
        if sources not in (None, consumer.addresses):
            moves = True
            await Consumers(store).change_addresses(record, sources or ())
        if access != consumer.access:
            moves = True
            await Consumers(store).change_access(record, access)
        answer = {
            "id": consumer.id,
            "name": consumer.name,
            "limits": msgspec.to_builtins(changed),
            "addresses": list(consumer.addresses if sources is None else sources),
            "access": msgspec.to_builtins(access),
            "changed": moves,
        }
        text = (
            f"Changed {consumer.name}, effective within 60 seconds." if moves else f"{consumer.name} stays as it was."
        )
        print(json.dumps(answer) if as_json else text)

    with_store(run)


@commands.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all consumers, without their keys."""

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
    """Revoke all keys of a consumer. Takes effect everywhere within 60 seconds."""

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
        float, typer.Option(min=0, max=24 * 90, help="Hours during which the old key still works.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Replace the key of a consumer. Its usage, its limits and the end of its validity stay."""

    async def run(store: Store) -> None:
        record = await find(store, identified)
        if record.is_identity:
            fail(f"{identified}: it calls with tokens of Entra ID, and has no keys")
        if not record.active_at(store.now()):
            fail(f"{identified}: its keys are revoked or expired, and stay so; create a new consumer")
        key = await Consumers(store).rotate(record, grace=grace_hours * 3600)
        _show_key(record.consumer.id, key, record.consumer.name, as_json)

    with_store(run)


def _show_key(consumer_id: str, key: str, name: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": consumer_id, "key": key, "name": name}))
    else:
        print(
            f"id    {consumer_id}\nname  {name}\nkey   {key}\n\n"
            "Keep the key now: it is stored as a hash and cannot be shown again."
        )


def _limits(context: typer.Context) -> Limits:
    """The limits among a command's options."""
    options = {name: context.params[name] for name in Limits.__struct_fields__ if context.params[name] is not None}
    try:
        limits = msgspec.convert(options, Limits)
    except msgspec.ValidationError as error:
        message, _, field = str(error).rstrip("`").partition(" - at `$.")
        fail(f"--{field.replace('_', '-')}: {message}")
    if problem := time_zone_problem(limits):
        fail(f"--time-zone: {problem}")
    return limits


def _networks(text: str | None) -> tuple[str, ...] | None:
    """The networks that an option lists, () for `any`, None if it is not given."""
    if text is None or text.strip() == "any":
        return None if text is None else ()
    try:
        return networks(text.split(","))
    except ValueError as error:
        fail(f"--addresses: expected networks such as 10.0.0.0/8, separated by commas, or any: {error}")


def _access(
    old: Access,
    regions: str | None,
    data_zones: str | None,
    pin: bool | None,
    explain: bool | None,
    whole_account: bool | None,
) -> Access:
    """A policy's access, changed by the options of a command."""
    return Access(
        regions=old.regions if regions is None else _places("--regions", regions, lambda backend: backend.region),
        data_zones=old.data_zones
        if data_zones is None
        else _places("--data-zones", data_zones, lambda backend: backend.data_zone),
        pin=old.pin if pin is None else pin,
        explain=old.explain if explain is None else explain,
        whole_account=old.whole_account if whole_account is None else whole_account,
    )


def _places(option: str, text: str, of: Callable[[Backend], str | None]) -> frozenset[str] | None:
    """Regions or zones that the configuration has, None for all."""
    places = _parts(text)
    if places == {"all"}:
        return None
    configured = {place for backend in settings().configuration.backends if (place := of(backend))}
    if not places or places - configured:
        names = ", ".join(sorted(configured)) or "none, since no backend has one"
        fail(f"{option}: expected all, or some of {names}; got {', '.join(sorted(places - configured)) or 'none'}")
    return places


def _models(text: str | None) -> frozenset[str] | None:
    """Models that the configuration has, since a typo would silently allow nothing. None for all."""
    if text is None:
        return None
    models, configuration = _parts(text), settings().configuration
    configured = {*configuration.model_names(), *configuration.aliases}
    if not models or models - configured:
        got = ", ".join(sorted(models - configured)) or "none"
        fail(f"--models: expected some of {', '.join(sorted(configured))}; got {got}")
    return models


def _parts(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())
