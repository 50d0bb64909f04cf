"""`access`: what callers have asked for, and the decisions."""

import json
from typing import Annotated, Any

import typer

from shared.cli._client import Client
from shared.cli._terminal import AsJson, pages, show, with_client

commands = typer.Typer(no_args_is_help=True, help="Callers' requests for a product or a higher limit.")

_AT = "/gateway/requests-for-access"
_COLUMNS = ("id", "name", "team", "wish", "reason", "asked", "state", "by", "answer")
Request = Annotated[str, typer.Argument(metavar="ID", help="The request's id.")]
Reason = Annotated[str, typer.Option(help="Shown to the caller.")]


@commands.command("list")
@with_client
async def list_requests(
    client: Client,
    state: Annotated[str, typer.Option(help="open, approving, approved or declined.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the requests, the newest first."""
    requests = await pages(client, _AT, **({"state": state} if state else {}))
    show(requests if as_json else [_row(one) for one in requests], _COLUMNS, as_json)


@commands.command()
@with_client
async def approve(client: Client, request: Request, reason: Reason = "", as_json: AsJson = False) -> None:
    """Give a caller what it asked for. Effective everywhere within 60 seconds."""
    await _decide(client, request, "approve", reason, as_json)


@commands.command()
@with_client
async def decline(client: Client, request: Request, reason: Reason = "", as_json: AsJson = False) -> None:
    """Decline a request."""
    await _decide(client, request, "decline", reason, as_json)


async def _decide(client: Client, request: str, decision: str, reason: str, as_json: bool) -> None:
    done = await client.call("POST", f"{_AT}/{request}/{decision}", {"reason": reason})
    print(json.dumps(done) if as_json else f"{done['id']} of {done['name']} is {done['state']}")


def _row(one: dict[str, Any]) -> dict[str, Any]:
    limits = ", ".join(f"{name}: {value:g}" for name, value in one["limits"].items())
    return {**one, "wish": f"product {one['product']}" if one["product"] else limits}
