"""`backends`: take one out of service for a time, and back."""

import json
from typing import Annotated, Any

import typer

from shared.cli._client import Client
from shared.cli._terminal import AsJson, show, with_client

commands = typer.Typer(no_args_is_help=True, help="List, drain and restore backends.")

_BACKENDS = "/gateway/backends"
_COLUMNS = ("name", "region", "kind", "priority", "weight")
Named = Annotated[str, typer.Argument(metavar="NAME", help="The backend's name in the configuration.")]


@commands.command("list")
@with_client
async def list_backends(client: Client, as_json: AsJson = False) -> None:
    """List the backends, and when drains end."""
    backends = (await client.call("GET", _BACKENDS))["backends"]
    show([_row(backend) for backend in backends], [*_COLUMNS, "drained_until", "reason", "by"], as_json)


@commands.command()
@with_client
async def drain(
    client: Client,
    name: Named,
    lasts: Annotated[str, typer.Option("--for", help="Duration, e.g. 30m, 2h, 1d; at most 30d.")],
    reason: Annotated[str, typer.Option(help="Shown to other operators.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Drain it even if a model then has no backend.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send no new calls to a backend for a time. Effective everywhere within 5 seconds."""
    query = {"force": "true"} if force else {}
    drained = await client.call("PUT", f"{_BACKENDS}/{name}/drain", {"for": lasts, "reason": reason}, query)
    until = drained["drained"]["until"]
    print(json.dumps({"name": name, "drained_until": until}) if as_json else f"{name} is drained until {until}")


@commands.command()
@with_client
async def restore(client: Client, name: Named, as_json: AsJson = False) -> None:
    """End the drain of a backend."""
    await client.call("DELETE", f"{_BACKENDS}/{name}/drain")
    print(json.dumps({"name": name, "drained_until": None}) if as_json else f"{name} is in service")


def _row(backend: dict[str, Any]) -> dict[str, Any]:
    drained = backend["drained"] or dict.fromkeys(("until", "reason", "by"))
    until = {"drained_until": drained["until"], "reason": drained["reason"], "by": drained["by"]}
    return {name: backend[name] for name in _COLUMNS} | until
