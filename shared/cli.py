"""The command line, `python -m shared.cli`: keys, usage, check, roll-up. Reads the same environment as the gateway."""

import asyncio
import csv
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import allowances, bootstrap, config, limits_report, rollup, usage
from shared import check as checks
from shared.addresses import networks
from shared.config import limit_complaints
from shared.consumers import Consumers, Record, when
from shared.errors import ConfigurationError, StoreUnavailable
from shared.stores import Store
from shared.types import ANYWHERE, Access, Backend, Limits

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Tollgate's command line."
)
keys = typer.Typer(no_args_is_help=True, help="Consumers and their keys.")
cli.add_typer(keys, name="keys")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Identified = Annotated[str, typer.Argument(metavar="ID", help="The consumer's id, or its name where only one has it.")]


class PeriodName(StrEnum):
    hour = "hour"
    day = "day"
    week = "week"
    month = "month"


class EstimateName(StrEnum):
    max = "max"
    learned = "learned"


class By(StrEnum):
    key = "key"
    model = "model"
    region = "region"
    backend = "backend"


Amount = Annotated[int | None, typer.Option(min=0, help="0: no limit, whatever the configuration says.")]
PeriodOption = Annotated[PeriodName | None, typer.Option(help="When the quota begins anew.")]
BudgetOption = Annotated[float | None, typer.Option(min=0, help="USD; 0: no limit.")]
ZoneOption = Annotated[str | None, typer.Option(help="By whose clocks periods begin, e.g. Europe/Berlin.")]
SoftOption = Annotated[bool | None, typer.Option("--soft/--hard", help="Tell what exceeds a limit, or refuse it.")]
EstimateOption = Annotated[
    EstimateName | None, typer.Option(help="Tokens reserved for an answer: all it may have, or what such calls took.")
]
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


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use the key, e.g. a team or an application.")],
    tokens_per_minute: Amount = None,
    requests_per_minute: Amount = None,
    token_quota: Amount = None,
    token_quota_period: PeriodOption = None,
    request_quota: Amount = None,
    request_quota_period: PeriodOption = None,
    budget_usd: BudgetOption = None,
    budget_period: PeriodOption = None,
    max_concurrent: Amount = None,
    time_zone: ZoneOption = None,
    soft: SoftOption = None,
    estimate: EstimateOption = None,
    regions: RegionsOption = None,
    data_zones: DataZonesOption = None,
    pin: PinOption = None,
    explain: ExplainOption = None,
    team: Annotated[str, typer.Option(help="The team of the configuration whose limits it shares.")] = "",
    models: Annotated[str | None, typer.Option(help="Models it may use, separated by commas; default: all.")] = None,
    addresses: AddressesOption = None,
    expires: Annotated[
        datetime | None, typer.Option(help="End of its validity, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a consumer and its first key, which is shown once."""
    limits, access = _limits(locals()), _access(ANYWHERE, regions, data_zones, pin, explain)
    name = name.strip()
    if not name or len(name) > 128 or not name.isprintable():
        _fail("NAME: expected 1 to 128 printable characters")
    if team and team not in (teams := _settings().configuration.limits.teams):
        _fail(f"--team: expected one of {', '.join(sorted(teams)) or 'limits.teams, which has none'}, got {team}")
    allowed, from_where = _models(models), _networks(addresses) or ()
    ends = expires.replace(tzinfo=UTC).timestamp() if expires else 0.0

    async def run(store: Store) -> None:
        consumer, text = await Consumers(store).create(
            name, models=allowed, limits=limits, expires=ends, team=team, addresses=from_where, access=access
        )
        _show_key(consumer.id, text, name, as_json)

    _with_store(run)


@keys.command("set")
def change_limits(
    identified: Identified,
    tokens_per_minute: Amount = None,
    requests_per_minute: Amount = None,
    token_quota: Amount = None,
    token_quota_period: PeriodOption = None,
    request_quota: Amount = None,
    request_quota_period: PeriodOption = None,
    budget_usd: BudgetOption = None,
    budget_period: PeriodOption = None,
    max_concurrent: Amount = None,
    time_zone: ZoneOption = None,
    soft: SoftOption = None,
    estimate: EstimateOption = None,
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
    given, from_where = _limits(locals()), _networks(addresses)
    if model:
        _models(model)
        model = _settings().configuration.canonical(model)

    async def run(store: Store) -> None:
        record = await _find(store, identified)
        consumer = record.consumer
        old = Limits() if clear else consumer.model_limits.get(model, Limits()) if model else consumer.limits
        limits = allowances.merged(old, given)
        access = _access(consumer.access, regions, data_zones, pin, explain)
        await Consumers(store).change_limits(record, limits, model)
        if from_where is not None:
            await Consumers(store).change_addresses(record, from_where)
        allowed = consumer.addresses if from_where is None else from_where
        if access != consumer.access:
            await Consumers(store).change_access(record, access)
        answer = {
            "id": consumer.id,
            "name": consumer.name,
            "limits": msgspec.to_builtins(limits),
            "addresses": list(allowed),
            "access": msgspec.to_builtins(access),
        }
        print(json.dumps(answer) if as_json else f"Changed the limits of {consumer.name}, effective within 60 seconds.")

    _with_store(run)


@keys.command("list")
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
        _print(
            rows,
            [
                "id",
                "name",
                "state",
                "keys",
                "models",
                "addresses",
                "requests_per_minute",
                "tokens_per_minute",
                "created",
            ],
            as_json,
        )

    _with_store(run)


@keys.command()
def revoke(identified: Identified, as_json: AsJson = False) -> None:
    """End all keys of a consumer. Effective everywhere within 60 seconds."""

    async def run(store: Store) -> None:
        record = await _find(store, identified)
        await Consumers(store).revoke(record)
        answer = {"id": record.consumer.id, "name": record.consumer.name, "revoked": True}
        print(
            json.dumps(answer)
            if as_json
            else f"Revoked {record.consumer.name} ({record.consumer.id}), effective within 60 seconds."
        )

    _with_store(run)


@keys.command()
def rotate(
    identified: Identified,
    grace_hours: Annotated[
        float, typer.Option(min=0, max=24 * 90, help="Hours for which the old key goes on working.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a new key for a consumer and end the old one: its usage and limits stay together."""

    async def run(store: Store) -> None:
        record = await _find(store, identified)
        text = await Consumers(store).rotate(record, grace=grace_hours * 3600)
        _show_key(record.consumer.id, text, record.consumer.name, as_json)

    _with_store(run)


@cli.command("limits")
def show_limits(
    identified: Annotated[str | None, typer.Argument(metavar="ID", help="The consumer; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is left of each limit, what instances hold on lease, and how long it will last."""
    configuration = _settings().configuration

    async def run(store: Store) -> None:
        records = [await _find(store, identified)] if identified else await Consumers(store).all()
        scopes = allowances.of_all((record.consumer for record in records), configuration)
        lines = await limits_report.report(store, scopes)
        heads = ["about", "unit", "per", "limit", "available", "used", "on_lease", "forecast", "exhausted", "renews"]
        _print(lines if as_json else [dict.fromkeys(heads) | line for line in lines], heads, as_json)

    _with_store(run)


@cli.command("usage")
def show_usage(
    by: Annotated[By, typer.Option(help="What a line stands for.")] = By.key,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="First hour, UTC; default: the first of this month.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(help="End, not included, UTC; default: now.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Requests and tokens, up to this moment."""
    if as_json and as_csv:
        _fail("--json and --csv: expected one of them")

    async def run(store: Store) -> None:
        now = datetime.fromtimestamp(store.now(), UTC)
        start = since.replace(tzinfo=UTC) if since else now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = until.replace(tzinfo=UTC) if until else now + timedelta(hours=1)
        if start >= end:
            _fail(f"--since {start:%Y-%m-%dT%H:%M:%S}: expected a time before --until {end:%Y-%m-%dT%H:%M:%S}")
        lines = [msgspec.to_builtins(line) for line in await usage.report(store, start, end, by.value)]
        columns = [
            "requests",
            "errors",
            "estimated",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "reasoning_tokens",
            "total_tokens",
        ]
        rows = [{by.value: line["name"]} | {column: line[column] for column in columns} for line in lines]
        heads = [by.value, *columns]
        if by is By.key:
            names = {record.consumer.id: record.consumer.name for record in await Consumers(store).all()}
            rows = [{"key": row["key"], "name": names.get(row["key"], ""), **row} for row in rows]
            heads.insert(1, "name")
        _print(rows, heads, as_json, as_csv)

    _with_store(run)


@cli.command()
def check(as_json: AsJson = False) -> None:
    """Is every backend reachable, authorised, deployed? Exit code 1 if one is not."""
    findings = asyncio.run(checks.check(_settings()))
    rows = [msgspec.to_builtins(finding) for finding in findings]
    _print(rows, ["backend", "region", "model", "deployment", "usable", "result"], as_json)
    if not all(finding.usable for finding in findings):
        raise typer.Exit(1)


@cli.command("rollup")
def roll_up(as_json: AsJson = False) -> None:
    """One pass of the timer's job now: raw usage to hours, days and months."""

    async def run(store: Store) -> None:
        summary = msgspec.to_builtins(await rollup.roll_up(store))
        print(
            json.dumps(summary)
            if as_json
            else ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items())
        )

    _with_store(run)


def _show_key(consumer_id: str, text: str, name: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": consumer_id, "key": text, "name": name}))
    else:
        print(
            f"id    {consumer_id}\nname  {name}\nkey   {text}\n\n"
            "Keep the key now: it is stored as a hash and cannot be shown again."
        )


def _limits(given: Mapping[str, Any]) -> Limits:
    """The limits among a command's options."""
    limits = msgspec.convert(
        {name: given[name] for name in Limits.__struct_fields__ if given[name] is not None}, Limits
    )
    if complaint := next(limit_complaints(limits), None):
        _fail("--" + complaint.replace("_", "-", 2))
    return limits


def _networks(text: str | None) -> tuple[str, ...] | None:
    """The networks of a policy; none for `any`."""
    if text is None or text.strip() == "any":
        return None if text is None else ()
    try:
        return networks(text.split(","))
    except ValueError as error:
        _fail(f"--addresses: expected networks such as 10.0.0.0/8, separated by commas, or any: {error}")


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
    known = {place for backend in _settings().configuration.backends if (place := of(backend))}
    if not wanted or wanted - known:
        got = ", ".join(sorted(wanted - known)) or "none"
        _fail(f"{option}: expected all, or some of {', '.join(sorted(known)) or 'none that a backend has'}, got {got}")
    return wanted


def _models(text: str | None) -> frozenset[str] | None:
    """The models of a policy, checked against the configuration: a typo would silently allow nothing."""
    if text is None:
        return None
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    configuration = _settings().configuration
    aliases = {alias for about in configuration.models.values() for alias in about.aliases}
    known = set(configuration.model_names()) | aliases
    if not wanted or wanted - known:
        _fail(
            f"--models: expected some of {', '.join(sorted(known))}, got {', '.join(sorted(wanted - known)) or 'none'}"
        )
    return wanted


async def _find(store: Store, identified: str) -> Record:
    consumers = Consumers(store)
    matching = [r for r in await consumers.all() if identified in (r.consumer.id, r.consumer.name)]
    if len(matching) != 1:
        problem = "several consumers have this name; use the id" if matching else "no consumer has this id or name"
        _fail(f"{identified}: {problem} (see: python -m shared.cli keys list)")
    return matching[0]


def _print(rows: Sequence[dict[str, Any]], heads: Sequence[str], as_json: bool, as_csv: bool = False) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, heads, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(*(head.replace("_", " ") for head in heads))
        for row in rows:
            table.add_row(*(Text("" if row[head] is None else str(row[head])) for head in heads))
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def _with_store(run: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with bootstrap.open_store(config.load_storage(os.environ)) as store:
            await run(store)

    try:
        asyncio.run(main())
    except (ConfigurationError, StoreUnavailable) as error:
        _fail(str(error))


def _settings() -> config.Settings:
    try:
        return config.load(os.environ)
    except ConfigurationError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    cli()
