"""`usage`: what was used, and what it cost."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.auth.consumers import Consumers
from shared.billing import report as usage_report
from shared.billing.charges import Tariff
from shared.cli._terminal import AsJson, fail, find, settings, show, with_store
from shared.storage import Store
from shared.token_classes import TOKEN_CLASSES

commands = typer.Typer()

AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Filter = Annotated[str | None, typer.Option(help="Only this one.")]


@commands.command("usage")
def show_usage(
    by: Annotated[
        str, typer.Option(help=f"What a line stands for; several with commas: {', '.join(usage_report.DIMENSIONS)}.")
    ] = "key",
    since: Annotated[str | None, typer.Option(help="First hour, UTC; default: the first of this month.")] = None,
    until: Annotated[str | None, typer.Option(help="End, not included, UTC; default: now.")] = None,
    every: Annotated[str | None, typer.Option(help="A series: a line for every hour, day or month.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this consumer: id, or name where only one has it.")] = None,
    team: Filter = None,
    product: Filter = None,
    model: Filter = None,
    served: Filter = None,
    deployment: Filter = None,
    backend: Filter = None,
    region: Filter = None,
    system: Filter = None,
    tier: Filter = None,
    role: Filter = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Requests, tokens and money, up to this moment."""
    given = {name: value for name, value in locals().items() if name in usage_report.PARAMETERS and value is not None}
    if as_json and as_csv:
        fail("--json and --csv: expected one of them")
    configuration = settings().configuration

    async def run(store: Store) -> None:
        if key is not None and key != usage_report.NOBODY:
            given["key"] = (await find(store, key)).consumer.id
        asked = usage_report.question(given, store.now())
        report = await usage_report.report(store, Tariff.of(configuration), asked)
        rows = report.rows({record.consumer.id: record.consumer.name for record in await Consumers(store).all()})
        if as_csv:
            print(usage_report.as_csv(report.heads(), rows), end="")
        elif as_json:
            print(json.dumps(rows, indent=2))
        else:
            _print(rows, report)

    with_store(run)


def _print(rows: list[dict[str, Any]], report: usage_report.Report) -> None:
    """The columns that fit a terminal, with the sums last."""
    totals = dict.fromkeys(report.heads(), "") | report.totals()
    told = [*rows, totals | {report.heads()[0]: "total"}]
    heads = [head for head in report.heads() if head not in _DETAILS or any(row[head] for row in rows)]
    for row in told:
        row |= {name: _money(row[name]) for name in heads if name.endswith("_usd")}
    show(told, heads, False)
    if report.total.unpriced:
        Console(stderr=True).print(
            f"{report.total.unpriced} requests have no known price, so their cost is missing here: name one under "
            "`prices` in the configuration (docs/usage.md)."
        )


def _money(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:.4f}"


# Shown where there is something to show.
_DETAILS = {
    *(field for field, tokens in TOKEN_CLASSES.items() if tokens.part_of),
    *("errors", "hung_up", "estimated", "images", "characters", "seconds"),
    *("charges", "beside_tokens", "beside_usd", "unpriced"),
}
