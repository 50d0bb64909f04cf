"""`requests`: single calls."""

import json
from typing import Annotated, Any

import typer

from shared.cli._client import Client
from shared.cli._consumer_options import option, with_options
from shared.cli._terminal import AsJson, show, with_client

commands = typer.Typer(no_args_is_help=True, help="List and show single calls.")

_PATH = "/gateway/requests"
_HEADS = (
    *("id", "at", "name", "model", "backend", "status", "code", "ended"),
    *("attempts", "input_tokens", "output_tokens"),
)
_FILTERS = {
    "consumer": option(str, "Only this consumer: its id."),
    **dict.fromkeys(("team", "product", "model"), option(str, "Only this value.")),
    "code": option(str, "Only this code of the gateway's own errors."),
    "status": option(str, "Only this status, e.g. 429, or class, e.g. 5xx."),
    "since": option(str, "Beginning, UTC; default: 24 hours before the end."),
    "until": option(str, "End (exclusive), UTC; default: now."),
    "after": option(str, "Only calls older than this one, by its id."),
}


@commands.command("list")
@with_options(_FILTERS)
@with_client
async def list_requests(
    client: Client,
    options: dict[str, Any],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of calls.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the newest calls, also those that were refused."""
    page = await client.call("GET", _PATH, query={**options, "limit": str(limit)})
    rows: list[dict[str, Any]] = page["data"]
    show(rows if as_json else [dict.fromkeys(_HEADS) | row for row in rows], _HEADS, as_json)
    if page["after"] and not as_json:
        print(f"more: --after {page['after']}")


@commands.command("show")
@with_client
async def show_request(
    client: Client,
    call_id: Annotated[str, typer.Argument(metavar="ID", help="The value of the header x-gateway-request-id.")],
    as_json: AsJson = False,
) -> None:
    """Show one call: its tries, times, tokens and cost, or why it was refused."""
    about = await client.call("GET", f"{_PATH}/{call_id}")
    if as_json:
        print(json.dumps(about, indent=2))
        return
    tries, charges = about.pop("tries"), about.pop("charges")
    for name, value in about.items():
        if value not in (None, ""):
            print(f"{name.replace('_', ' '):<20}{value}")
    for title, rows in (("Tries", tries), ("Charges of tries that did not answer", charges)):
        if rows:
            print(f"\n{title}")
            show(rows, list(rows[0]), False)
