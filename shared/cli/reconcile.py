"""`reconcile`: comparison of the ledger with Azure's count."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer

from shared.billing import reconciliation
from shared.billing.reconciliation import Difference
from shared.cli._terminal import AsJson, fail, settings, show, with_store
from shared.config.days import since_seconds
from shared.storage import Store
from shared.usage import hours, query

commands = typer.Typer()


@commands.command("reconcile")
def compare_with_azure(
    date: Annotated[str, typer.Option(help="The day, YYYY-MM-DD, in UTC.")],
    as_json: AsJson = False,
) -> None:
    """Compare a day with Azure Monitor's count of each deployment. Exits with 1 if tokens differ."""
    own = settings()
    try:
        first = since_seconds(date) // hours.HOUR
    except ValueError:
        first = 0
    if not first:
        fail(f"--date: expected a day as 2026-11-20, got {date[:20]!r}")
    accounts = [(b.region, b.resource_id) for b in own.configuration.backends if b.resource_id is not None]
    if not accounts:
        fail("backends[].resource_id: expected the Azure resource ID of at least one backend, for Azure Monitor")

    async def run(store: Store) -> None:
        from shared.cli._azure_monitor import AzureMonitor

        day = datetime.fromtimestamp(first * hours.HOUR, UTC)
        monitor = AzureMonitor(own.configuration.azure_monitor, own.client_id)
        azure = await monitor.counted(accounts, day, day + timedelta(days=1))
        (lines,) = await query.read(store, [query.HourRange(first, first + hours.DAY)])
        differences = reconciliation.compare(lines, own.configuration.backends, azure)
        if as_json:
            rows = [msgspec.to_builtins(one) | {"percent": one.percent, "same": one.same} for one in differences]
            print(json.dumps(rows, indent=2))
        else:
            _print(differences)
        if not all(one.same for one in differences):
            raise typer.Exit(1)

    with_store(run)


def _print(differences: list[Difference]) -> None:
    rows: list[dict[str, Any]] = []
    for one in differences:
        row: dict[str, Any] = {"backends": one.backends, "deployment": one.deployment}
        for name in ("requests", "input_tokens", "output_tokens"):
            ours = getattr(one.ledger, name)
            theirs = None if one.azure is None else getattr(one.azure, name)
            row |= {name: ours, f"azure_{name}": "no resource_id" if theirs is None else theirs}
        rows.append(row | {"percent": "" if one.percent is None else f"{one.percent:+.3f}"})
    show(rows, list(rows[0]) if rows else ["backends", "deployment"], False)
