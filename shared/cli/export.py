"""`export` and `reprice`: charges as FOCUS files."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.billing.cost import exactly
from shared.billing.focus_export import FocusExporter, open_exporter
from shared.cli._terminal import AsJson, fail, settings, show, with_store
from shared.config.days import since_seconds
from shared.storage import Store
from shared.usage import hours

commands = typer.Typer()


@commands.command("export")
def export_month(
    month: Annotated[str | None, typer.Option(help="YYYY-MM; default: this month until now.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the container.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a month of charges as a FOCUS file, to the configured container or to a local file."""
    first = _hour(month, "-01", "--month", "2026-11") if month else None

    async def run(exporter: FocusExporter, now: float) -> None:
        current = hours.hour_of(now)
        begin = hours.month_start(current) if first is None else first
        if begin > current:
            fail(f"--month: expected this month or an earlier one, got {month}")
        statement = await exporter.statement(begin, min(hours.next_month(begin), current + 1))
        if out is None:
            written = await exporter.write(statement)
        else:
            written = str(out)
            try:
                out.write_bytes(statement.text)
            except OSError as error:
                fail(f"--out: {out} cannot be written ({error.strerror})")
        usd, rows, unpriced = exactly(statement.picodollars), statement.rows, statement.unpriced
        if as_json:
            summary = {"month": statement.label, "rows": rows, "unpriced": unpriced, "usd": usd, "written": written}
            print(json.dumps(summary))
        elif not written:
            print(f"{statement.label}: no usage, so no file was written")
        else:
            print(f"{written}: {rows} rows, {usd} USD, {unpriced} rows without a price")

    _with_exporter(run, needs_container=out is None)


@commands.command("reprice")
def reprice(
    since: Annotated[str, typer.Option("--from", help="YYYY-MM-DD: the first month is that of this day.")],
    as_json: AsJson = False,
) -> None:
    """Write the exported months again at today's prices, and print the change.

    Only files need this: reports compute cost from tokens whenever they are read."""
    first = _hour(since, "", "--from", "2026-11-01")

    async def run(exporter: FocusExporter, _: float) -> None:
        heads, rows = ["month", "before", "after", "change"], []
        for one in await exporter.reprice(first):
            sums = map(exactly, (one.before, one.after, one.after - one.before))
            rows.append(dict(zip(heads, (one.month, *sums), strict=True)))
        if rows or as_json:
            show(rows, heads, as_json)
        else:
            print(f"No month was exported since {since}.")

    _with_exporter(run, needs_container=True)


def _hour(text: str, rest: str, option: str, form: str) -> int:
    try:
        return since_seconds(text + rest) // hours.HOUR
    except ValueError:
        fail(f"{option}: expected a date as {form}, got {text[:64]!r}")


def _with_exporter(run: Callable[[FocusExporter, float], Coroutine[Any, Any, None]], *, needs_container: bool) -> None:
    own = settings()
    configuration = own.configuration
    if needs_container and configuration.export.container is None:
        fail("export.container: expected the name of a blob container in the configuration, or --out FILE")

    async def open_and_run(store: Store) -> None:
        if needs_container:
            async with open_exporter(own.storage, configuration, store) as exporter:
                await run(exporter, store.now())
        else:
            await run(FocusExporter(store, configuration), store.now())

    with_store(open_and_run)
