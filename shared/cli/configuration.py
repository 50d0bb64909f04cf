"""`config`: checks a document, and shows, compares, applies and takes back versions of the configuration."""

import functools
import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Concatenate, NoReturn

import typer
import yaml

from shared.cli._client import Client
from shared.cli._terminal import AsJson, fail, over_gateway, pages, show, text_of, with_client
from shared.config import layers, residency
from shared.config.layers import Sections
from shared.config.parsing import data_of
from shared.errors import Complaint, ConfigurationError, GatewayError
from shared.versions.live import EVERY, READ_AT_THE_START

commands = typer.Typer(no_args_is_help=True, help="Check, compare, apply and roll back the configuration.")

_PATH = "/gateway/configuration"
File = Annotated[Path, typer.Argument(help="YAML or JSON with whole sections of the configuration.")]
Note = Annotated[str, typer.Option(help="A remark for the history.")]


def _with_client[**P](command: Callable[Concatenate[Client, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The same as `with_client`. The command exits with 1 if a configuration is refused, with its complaints."""

    @with_client
    @functools.wraps(command)
    async def complaining(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await command(client, *args, **kwargs)
        except GatewayError as error:
            if not error.complaints:
                raise
            _complain(error.complaints, bool(kwargs["as_json"]))

    return complaining


@commands.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A whole document in YAML or JSON.")], as_json: AsJson = False
) -> None:
    """Check a document by itself, without the storage, the backends and their secrets; with --gateway, check it as
    sections over the base document of that gateway. Exits with 1 if it is wrong."""

    if over_gateway():
        _ask(file, as_json=as_json)
    else:
        try:
            base = layers.base(text_of(file), str(file))
            for warning in residency.warnings(base.configuration):
                print(f"warning: {warning}", file=sys.stderr)
        except ConfigurationError as error:
            _complain(error.complaints, as_json)
    print(json.dumps({"valid": True}) if as_json else f"{file}: correct")


@_with_client
async def _ask(client: Client, file: Path, *, as_json: bool) -> None:
    """Check sections over the base document of a gateway."""
    await client.call("POST", f"{_PATH}/validate", _sections(file))


@commands.command("show")
@_with_client
async def show_current(client: Client, as_json: AsJson = False) -> None:
    """Show the configuration, and what needs a restart to change."""
    served = await client.call("GET", _PATH)
    if as_json:
        print(json.dumps(served, indent=2))
        return
    for name, value in served["document"].items():
        source = served["sections"][name]
        print(f"# from {served['base']['source'] if source == 'base' else source}")
        print(_yaml({name: value}))
    for warning in served["warnings"]:
        print(f"# {warning}")
    for one in served["refused"]:
        for complaint in one["complaints"]:
            print(f"# refused: {one['name']}: {complaint['path']}: {complaint['message']}")
    keys = ", ".join(f"ledger.{key}" for key in READ_AT_THE_START)
    print(f"# A change of {keys} or of an environment variable needs a restart.")


@commands.command()
@_with_client
async def diff(
    client: Client,
    file: Annotated[Path | None, typer.Argument(help="Compare with these sections instead of the base.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the base document with what is served, or what is served with what FILE would make of it."""
    sections = _sections(file) if file is not None else {}
    changes = (await client.call("POST", f"{_PATH}/validate", sections))["changes"]
    if file is None:  # the change to the base document alone, backwards
        changes = [{**change, "before": change["after"], "after": change["before"]} for change in changes]
    _print_changes(changes, as_json)


@commands.command()
@_with_client
async def apply(
    client: Client,
    file: File,
    note: Note = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and show the changes only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the sections in FILE in place of the base document's, and no others. Takes effect on every instance within
    30 seconds, and breaks no call. Exits with 1 if it is refused."""
    sections = _sections(file)
    changes = (await client.call("POST", f"{_PATH}/validate", sections))["changes"]
    if not as_json:
        _print_changes(changes, as_json)
    if not dry_run:
        _say(await client.call("PUT", _PATH, sections, {"note": note}), as_json)


@commands.command()
@_with_client
async def history(client: Client, as_json: AsJson = False) -> None:
    """List the versions, the newest first."""
    versions = await pages(client, f"{_PATH}/versions")
    if not as_json:
        versions = [{**one, "sections": ", ".join(one["sections"]) or "none"} for one in versions]
    show(versions, ["version", "at", "by", "sections", "note"], as_json)


@commands.command()
@_with_client
async def rollback(
    client: Client,
    to: Annotated[str, typer.Argument(metavar="VERSION", help="Its number, or `base`: the base document alone.")],
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version again, as a new one."""
    _say(await client.call("POST", f"{_PATH}/rollback", {"version": to, "note": note}), as_json)


def _say(version: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"version": version["version"], "sections": version["sections"]}))
    else:
        named = f"version {version['version']}" if version["version"] else "the base document"
        print(f"{named} is current: every instance serves it within {2 * EVERY:.0f} s.")


def _sections(file: Path) -> Sections:
    try:
        data = data_of(text_of(file), str(file))
    except ConfigurationError as error:
        _complain(error.complaints, False)
    if not isinstance(data, Mapping):
        fail(f"{file}: expected sections of the configuration by name, or {{}} for none")
    return data


def _complain(complaints: Sequence[Complaint], as_json: bool) -> NoReturn:
    """Print the complaints, and exit with 1."""
    if as_json:
        print(json.dumps({"complaints": [{"path": one.path, "message": one.message} for one in complaints]}))
    else:
        typer.echo("\n".join(map(str, complaints)), err=True)
    raise typer.Exit(1)


def _print_changes(changes: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(changes, indent=2))
        return
    for change in changes:
        for sign, value in (("-", change["before"]), ("+", change["after"])):
            for line in _yaml({change["section"]: value}).splitlines() if value is not None else ():
                print(f"{sign} {line}")
    if not changes:
        print("No section differs.")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
