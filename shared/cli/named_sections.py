"""`products` and `teams`: entries of the configuration, each changed by itself and without a restart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from shared.cli._client import Client
from shared.cli._consumer_options import LIMITS, limits_in, listed, option, with_options
from shared.cli._terminal import AsJson, fail, pages, show, show_fields, text_of, with_client
from shared.errors import GatewayError

_SOON = "effective within 30 seconds"
Name = Annotated[str, typer.Argument(help="Its name.")]
File = Annotated[Path | None, typer.Option(help="YAML or JSON with all its fields, in place of the options.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Force = Annotated[bool, typer.Option("--force", help="Delete it even if consumers have it.")]

_LISTS: dict[str, dict[str, str]] = {  # options with several values, and the word for an empty list
    "products": dict.fromkeys(("models", "regions", "data_zones", "teams"), "all"),
    "teams": {"owners": "none"},
}
_SHARED = option(bool, "The limits are those of all subscribers together, not of each.", "--shared")
_OPTIONS: dict[str, dict[str, Any]] = {
    "products": {
        "models": option(str, "Models, separated by commas; all: every model."),
        "regions": option(str, "Regions, separated by commas; all: any region."),
        "data_zones": option(str, "Data zones, separated by commas; all: any zone."),
        "teams": option(str, "Teams whose keys may subscribe, separated by commas; all: any."),
        "shared": _SHARED,
        **LIMITS,
    },
    "teams": {
        "owners": option(str, "Object ids of people or groups who manage its keys, separated by commas; none."),
        **LIMITS,
    },
}
_HELP = {
    "products": "Bundles of models and limits that keys subscribe to.",
    "teams": "Teams, whose keys share limits.",
}


def _commands(section: str) -> typer.Typer:
    commands = typer.Typer(no_args_is_help=True, help=_HELP[section])
    kind, path, lists = section.removesuffix("s"), f"/gateway/{section}", _LISTS[section]
    heads = ["name", *lists, *(("limits", "shared_limits") if section == "products" else ("limits",))]

    @commands.command("list", help=f"List the {section}.")
    @with_client
    async def list_all(client: Client, as_json: AsJson = False) -> None:
        entries = await pages(client, path)
        rows = entries if as_json else [{head: _cell(entry.get(head)) for head in heads} for entry in entries]
        show(rows, heads, as_json)

    @commands.command("show", help=f"Show one {kind}.")
    @with_client
    async def show_one(client: Client, name: Name, as_json: AsJson = False) -> None:
        show_fields(await client.call("GET", f"{path}/{name}"), as_json)

    @commands.command("set", help=f"Create a {kind}, or change the fields that are given, or all by a file.")
    @with_options(_OPTIONS[section])
    @with_client
    async def change(
        client: Client, name: Name, options: dict[str, Any], file: File = None, as_json: AsJson = False
    ) -> None:
        if file is not None and options:
            fail("--file: expected either a file or options")
        if file is None:
            entry = await _patched(client, f"{path}/{name}", _fields(options, lists))
        else:
            entry = await client.call("PUT", f"{path}/{name}", _read(file))
        print(json.dumps(entry) if as_json else f"Set the {kind} {name}, {_SOON}.")

    @commands.command("delete", help=f"Delete a {kind}.")
    @with_client
    async def delete(
        client: Client, name: Name, force: Force = False, yes: Yes = False, as_json: AsJson = False
    ) -> None:
        if not yes:
            typer.confirm(f"Delete the {kind} {name}?", abort=True)
        await client.call("DELETE", f"{path}/{name}", query={"force": "true"} if force else {})
        print(json.dumps({"name": name, "deleted": True}) if as_json else f"Deleted {name}, {_SOON}.")

    return commands


products, teams = _commands("products"), _commands("teams")


async def _patched(client: Client, path: str, fields: Mapping[str, Any]) -> Any:
    """Change these fields, or create an entry that has them."""
    try:
        return await client.call("PATCH", path, fields)
    except GatewayError as error:
        if error.status != 404:
            raise
    first = {name: value for name, value in fields.items() if value is not None}
    return await client.call("PUT", path, first, headers={"if-none-match": "*"})


def _fields(options: Mapping[str, Any], lists: Mapping[str, str]) -> dict[str, Any]:
    """The merge patch of options."""
    patch: dict[str, Any] = {name: listed(name, options[name], none) for name, none in lists.items() if name in options}
    if limits := limits_in(options):
        patch["shared_limits" if options.get("shared") else "limits"] = limits
    elif options.get("shared"):
        fail("--shared: expected an option for a limit with it")
    return patch


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(text_of(file))
    except yaml.YAMLError as error:
        fail(f"{file}: expected YAML or JSON: {error}")
    if not isinstance(fields, dict):
        fail(f"{file}: expected fields by name, such as limits")
    return fields


def _cell(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value)
