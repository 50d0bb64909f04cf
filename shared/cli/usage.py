"""The command `usage`: requests, tokens and cost."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.billing import report as usage_report
from shared.cli._client import Client
from shared.cli._consumer_options import option, with_options
from shared.cli._terminal import AsJson, fail, find, show, with_client
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.usage.folds import NOBODY

commands = typer.Typer()

_PATH = "/gateway/usage"

AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
_OPTIONS: dict[str, Any] = {
    "since": option(str, "First hour, UTC; default: the first of this month."),
    "until": option(str, "End (exclusive), UTC; default: now."),
    "every": option(str, "A series with a line per hour, day or month."),
    **dict.fromkeys(usage_report.DIMENSIONS, option(str, "Only this value.")),
    "key": option(str, "Only this consumer: its id, or its name if unique."),
}


@commands.command("usage")
@with_options(_OPTIONS)
@with_client
async def show_usage(
    client: Client,
    options: dict[str, Any],
    by: Annotated[
        str, typer.Option(help=f"Dimensions of a line, separated by commas: {', '.join(usage_report.DIMENSIONS)}.")
    ] = "key",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show requests, tokens and cost up to now."""
    if as_json and as_csv:
        fail("--json and --csv: expected one of them")
    parameters = {"by": by, **options}
    if parameters.get("key", NOBODY) != NOBODY:
        parameters["key"] = (await find(client, parameters["key"]))["id"]
    if as_csv:
        print(await client.call("GET", _PATH, query={**parameters, "format": "csv"}), end="")
        return
    answer = await client.call("GET", _PATH, query=parameters)
    if as_json:
        print(json.dumps(answer["lines"], indent=2))
    else:
        _print(answer["lines"], answer["total"])


def _print(rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
    """Print the columns that fit a terminal, with the sums last."""
    heads = list(rows[0] if rows else {"": "", **total})
    totals = dict.fromkeys(heads, "") | total
    table = [*rows, totals | {heads[0]: "total"}]
    timed = not _PLACES.isdisjoint(heads)
    fitting = [head for head in heads if timed or head not in usage_report.TIMES]
    heads = [head for head in fitting if head not in _DETAILS or any(row[head] for row in rows)]
    for row in table:
        row |= {n: "unknown" if row[n] is None else f"{row[n]:.4f}" for n in heads if n.endswith("_usd")}
    show(table, heads, False)
    if total["unpriced"]:
        Console(stderr=True).print(
            f"The cost lacks {total['unpriced']} requests whose price is unknown: add it to `prices` in the "
            "configuration (docs/usage.md)."
        )


# Columns that are shown only if a line has a value.
_DETAILS = {
    *(field for field, tokens in TOKEN_CLASSES.items() if tokens.part_of),
    *UNITS,
    *("refused", "errors", "hung_up", "estimated", "empty"),
    *("charges", "beside_tokens", "beside_usd", "unpriced"),
}

# Dimensions by which a table has the columns of times: those of all models together say little.
_PLACES = {"model", "served", "deployment", "backend", "region"}
