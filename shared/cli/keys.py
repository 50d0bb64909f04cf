"""`keys`: consumers, their keys and their limits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli import _bulk
from shared.cli._client import Client
from shared.cli._consumer_options import fields_in, limits_in, option, with_fields, with_options
from shared.cli._terminal import AsJson, Identified, fail, find, pages, show, show_fields, with_client
from shared.config.limits import Limits

commands = typer.Typer(no_args_is_help=True, help="Consumers and their keys.")

CONSUMERS = "/gateway/consumers"
_SOON = "effective within 60 seconds"
KeyOption = Annotated[str | None, typer.Option("--key", help="The id of one key; see: tollgate keys show ID.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


@commands.command()
@with_fields
@with_client
async def create(
    client: Client,
    name: Annotated[str, typer.Argument(help="The user of the key, e.g. a team or an application.")],
    options: dict[str, Any],
    consumer_id: Annotated[
        str | None, typer.Option("--id", help="A new id of a-z, 0-9 and -; default: random.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a consumer and its first key, which is shown once."""
    body = {"name": name, **fields_in(options), "limits": limits_in(options)}
    if consumer_id:
        body["id"] = consumer_id
    made = await client.call("POST", CONSUMERS, body)
    _show_key(made, made["key"], as_json)


@commands.command("set")
@with_fields
@with_client
async def change(
    client: Client,
    identified: Identified,
    options: dict[str, Any],
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    model: Annotated[str, typer.Option(help="Set the limits on this model, in addition to those of the key.")] = "",
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove its own limits first; those not given are then as configured.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Change a consumer. Takes effect everywhere within 60 seconds."""
    patch = fields_in(options) | ({} if name is None else {"name": name})
    limits = limits_in(options)
    old = await find(client, identified)
    cleared = dict.fromkeys(Limits.__struct_fields__) if clear else {}
    if model:
        patch["model_limits"] = {model: cleared | limits if limits else None} if limits or clear else {}
    elif limits or clear:
        patch["limits"] = cleared | limits
    new = await client.call("PATCH", _path(old), patch)
    changed = {**new, "keys": []} != {**old, "keys": []}
    text = f"Changed {new['name']}, {_SOON}." if changed else f"{new['name']} stays as it was."
    print(json.dumps({**new, "changed": changed}) if as_json else text)


@commands.command("list")
@with_options(
    {
        "name": option(str, "Only names that contain this."),
        "team": option(str, "Only this team."),
        "model": option(str, "Only those that may use this model."),
        "state": option(str, "Only this state: active, revoked or expired."),
    }
)
@with_client
async def list_keys(client: Client, options: dict[str, Any], as_json: AsJson = False) -> None:
    """List consumers, without their keys."""
    consumers = sorted(await pages(client, CONSUMERS, **options), key=lambda one: one["created"] or "")
    heads = ["id", "name", "state", "keys", "team", "models", "addresses"]
    heads += ["requests_per_minute", "tokens_per_minute", "expires", "created"]
    show(consumers if as_json else [_row(one) for one in consumers], heads, as_json)


@commands.command("show")
@with_client
async def show_one(client: Client, identified: Identified, as_json: AsJson = False) -> None:
    """Show every field of a consumer, and its keys without their secrets."""
    one = await find(client, identified)
    if as_json:
        print(json.dumps(one, indent=2))
        return
    show_fields({field: value for field, value in one.items() if field != "keys"}, False)
    show(one["keys"], ["id", "state", "created", "expires", "revoked"], False)


@commands.command()
@with_client
async def revoke(client: Client, identified: Identified, key: KeyOption = None, as_json: AsJson = False) -> None:
    """Revoke a consumer with all its keys, or one key for good. Takes effect everywhere within 60 seconds."""
    one = await find(client, identified)
    if key is None:
        one = await client.call("PATCH", _path(one), {"state": "revoked"})
    else:
        await client.call("DELETE", f"{_path(one)}/keys/{key}")
    of = f"the key {key} of " if key else ""
    answer = {"id": one["id"], "name": one["name"], "revoked": True, **({"key": key} if key else {})}
    print(json.dumps(answer) if as_json else f"Revoked {of}{one['name']} ({one['id']}), {_SOON}.")


@commands.command()
@with_client
async def restore(client: Client, identified: Identified, as_json: AsJson = False) -> None:
    """Restore a revoked consumer with the keys that it had. Takes effect everywhere within 60 seconds."""
    one = await find(client, identified)
    one = await client.call("PATCH", _path(one), {"state": "active"})
    print(json.dumps(one) if as_json else f"Restored {one['name']} ({one['id']}), {_SOON}.")


@commands.command()
@with_client
async def delete(client: Client, identified: Identified, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a consumer and its keys. Its usage stays, under its name."""
    one = await find(client, identified)
    if not yes:
        typer.confirm(f"Delete {one['name']} ({one['id']}) and its keys?", abort=True)
    await client.call("DELETE", _path(one))
    answer = {"id": one["id"], "name": one["name"], "deleted": True}
    print(json.dumps(answer) if as_json else f"Deleted {one['name']} ({one['id']}), {_SOON}.")


@commands.command()
@with_client
async def add(client: Client, identified: Identified, as_json: AsJson = False) -> None:
    """Make another key of a consumer. The others stay."""
    one = await find(client, identified)
    made = await client.call("POST", f"{_path(one)}/keys", {})
    _show_key(one, made["key"], as_json)


@commands.command()
@with_client
async def rotate(
    client: Client,
    identified: Identified,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * 90, help="Hours during which the old key still works.")
    ] = 24.0,
    grace_hours: Annotated[float | None, typer.Option(min=0, max=24 * 90, hidden=True)] = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Replace the key of a consumer. Its usage, its limits and the end of its validity stay."""
    hours = overlap_hours if grace_hours is None else grace_hours
    one = await find(client, identified)
    old = key or _only_key(one)
    made = await client.call("POST", f"{_path(one)}/keys/{old}/rotate", {"overlap_hours": hours})
    _show_key(one, made["key"], as_json)


@commands.command("import")
@with_client
async def import_file(
    client: Client,
    file: Annotated[Path, typer.Argument(help="CSV: a row per consumer, a column per field; name is required.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Create or change the consumers of a CSV file. Columns that it lacks stay as they are."""
    await _bulk.apply(client, _bulk.read_csv(file), dry_run=dry_run, yes=yes, as_json=as_json)


@commands.command("apply")
@with_client
async def apply_file(
    client: Client,
    file: Annotated[Path, typer.Argument(help="YAML or JSON: {consumers: [{name: …, team: …, limits: {…}}]}.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Create or replace the consumers of a file, except for their state. Others stay as they are."""
    await _bulk.apply(client, _bulk.read_yaml(file), dry_run=dry_run, yes=yes, as_json=as_json)


def _path(consumer: Mapping[str, Any]) -> str:
    return f"{CONSUMERS}/{consumer['id']}"


def _only_key(consumer: Mapping[str, Any]) -> str:
    """The id of the key to rotate: the only valid one that is not being replaced already. Exits with 2."""
    valid = [key for key in consumer["keys"] if key["state"] == "active"]
    if not valid:
        fail(f"{consumer['name']}: its keys are revoked or expired, and stay so (see: tollgate keys add, keys restore)")
    current = [key["id"] for key in valid if not key["successor"]]
    if len(current) != 1:
        fail(f"--key: expected one of {', '.join(key['id'] for key in valid)}: {consumer['name']} has several keys")
    return str(current[0])


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{field: one[field] for field in ("id", "name", "state", "team", "expires", "created")},
        "keys": sum(key["state"] == "active" for key in one["keys"]),
        "models": "all" if one["models"] is None else ",".join(one["models"]),
        "addresses": ",".join(one["addresses"]) or "any",
        **{field: one["limits"].get(field) for field in ("requests_per_minute", "tokens_per_minute")},
    }


def _show_key(consumer: Mapping[str, Any], key: str, as_json: bool) -> None:
    consumer_id, name = consumer["id"], consumer["name"]
    if as_json:
        print(json.dumps({"id": consumer_id, "key": key, "name": name}))
    else:
        print(
            f"id    {consumer_id}\nname  {name}\nkey   {key}\n\n"
            "Keep the key now: it is stored as a hash and cannot be shown again."
        )
