"""`limits`, `audit`, `check` and `rollup`: the state, and maintenance by hand."""

import asyncio
import json
import sys
import time
from typing import Annotated, Any

import msgspec
import typer

from shared.cli._client import Client
from shared.cli._consumer_options import option, with_options
from shared.cli._terminal import AsJson, find, settings, show, with_client, with_store
from shared.storage import Store
from shared.usage import rollup

commands = typer.Typer()


@commands.command()
@with_client
async def limits(
    client: Client,
    identified: Annotated[str | None, typer.Argument(metavar="ID", help="The consumer; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show each limit: used, available, leased by instances, and when it will be used up."""
    one = f"/{(await find(client, identified))['id']}" if identified else ""
    lines = (await client.call("GET", f"/gateway/limits{one}"))["limits"]
    heads = ["about", "unit", "per", "limit", "available", "used", "on_lease", "forecast", "exhausted", "renews"]
    show(lines if as_json else [dict.fromkeys(heads) | line for line in lines], heads, as_json)


@commands.command()
@with_options(
    {
        "actor": option(str, "Only the changes of this operator."),
        "action": option(str, "Only this action, e.g. consumer.update."),
        "object": option(str, "Only the changes of this object, by its id."),
        "since": option(str, "From this time on, UTC."),
        "until": option(str, "Before this time, UTC."),
    }
)
@with_client
async def audit(
    client: Client,
    options: dict[str, Any],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number, newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the changes that operators made: when, by whom and from where; with --json also before and after."""
    entries = (await client.call("GET", "/gateway/audit", query={**options, "limit": str(limit)}))["data"]
    show(entries, ["at", "actor", "address", "action", "object", "state"], as_json)


@commands.command()
def check(as_json: AsJson = False) -> None:
    """Call every deployment of every backend with a minimal request. Exits with 1 if one is not usable.

    Shows the day on which Azure retires each model, as far as it is known, and warns 90 days ahead."""
    from shared.cli import _backend_check as checks  # and with it OpenAI's client, half of a start

    environment = settings(secrets=True)
    findings = asyncio.run(checks.check(environment))
    for warning in checks.warnings(environment.configuration, findings, time.time()):
        print(f"warning: {warning}", file=sys.stderr)
    rows: list[dict[str, Any]] = [msgspec.to_builtins(finding) for finding in findings]
    heads = ["backend", "region", "model", "deployment", "usable", "result", "retires"]
    show(rows if as_json else [row | {"retires": (row["end"] or {}).get("retires")} for row in rows], heads, as_json)
    if not all(finding.usable for finding in findings):
        raise typer.Exit(1)


@commands.command("rollup")
def roll_up(as_json: AsJson = False) -> None:
    """Roll raw usage up to hours, days and months now, as the timer does."""

    async def run(store: Store) -> None:
        summary = msgspec.to_builtins(await rollup.roll_up(store))
        lines = [f"{name.replace('_', ' ')}: {value}" for name, value in summary.items()]
        print(json.dumps(summary) if as_json else ", ".join(lines))

    with_store(run)
