"""`requests`: single calls."""

import json
from typing import Annotated, Any

import typer

from shared.cli._client import Client
from shared.cli._terminal import AsJson, show, with_client

commands = typer.Typer(no_args_is_help=True, help="Single calls.")

_PATH = "/gateway/requests"
_HEADS = (
    *("id", "at", "name", "model", "backend", "status", "code", "ended"),
    *("attempts", "input_tokens", "output_tokens"),
)
Filter = Annotated[str | None, typer.Option(help="Only this value.")]


@commands.command("list")
def list_requests(
    consumer: Annotated[str | None, typer.Option(help="Only this consumer: its id.")] = None,
    team: Filter = None,
    product: Filter = None,
    model: Filter = None,
    code: Annotated[str | None, typer.Option(help="Only this code of the gateway's own errors.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status, e.g. 429, or class, e.g. 5xx.")] = None,
    since: Annotated[str | None, typer.Option(help="Beginning, UTC; default: 24 hours before the end.")] = None,
    until: Annotated[str | None, typer.Option(help="End (exclusive), UTC; default: now.")] = None,
    after: Annotated[str | None, typer.Option(help="Only calls older than this one, by its id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most calls.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the newest calls, also those that were refused."""
    given = {"consumer": consumer, "team": team, "product": product, "model": model, "code": code, "status": status}
    given |= {"since": since, "until": until, "after": after, "limit": str(limit)}
    query = {name: value for name, value in given.items() if value is not None}

    async def run(client: Client) -> None:
        page = await client.call("GET", _PATH, query=query)
        rows: list[dict[str, Any]] = page["data"]
        show(rows if as_json else [dict.fromkeys(_HEADS) | row for row in rows], _HEADS, as_json)
        if page["after"] and not as_json:
            print(f"more: --after {page['after']}")

    with_client(run)


@commands.command("show")
def show_request(
    call_id: Annotated[str, typer.Argument(metavar="ID", help="The value of the header x-gateway-request-id.")],
    as_json: AsJson = False,
) -> None:
    """Show one call: its tries, times, tokens and cost, or why it was refused."""

    async def run(client: Client) -> None:
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

    with_client(run)
