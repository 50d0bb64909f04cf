"""`config`: checks a document, and shows, compares, applies and takes back versions of the configuration."""

import asyncio
import getpass
import json
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

from shared.cli._terminal import AsJson, fail, open_layers, show, text_of
from shared.config import layers
from shared.config.layers import Base, Sections
from shared.config.parsing import data_of
from shared.errors import ConfigurationError, GatewayError, StoreUnavailable
from shared.management.audit import Audit, Change
from shared.storage import Store
from shared.versions.changes import Changes
from shared.versions.live import EVERY, READ_AT_THE_START
from shared.versions.rows import Version, Versions

commands = typer.Typer(no_args_is_help=True, help="Check, compare, apply and take back the configuration.")

File = Annotated[Path, typer.Argument(help="YAML or JSON with whole sections of the configuration.")]
Note = Annotated[str, typer.Option(help="A remark for the history.")]


@commands.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A whole document in YAML or JSON.")], as_json: AsJson = False
) -> None:
    """Check a document by itself, without the storage, the backends and their secrets. Exits with 1 if it is wrong."""
    try:
        layers.base(text_of(file), str(file))
    except ConfigurationError as error:
        _complain(error, as_json)
    print(json.dumps({"valid": True}) if as_json else f"{file}: correct")


@commands.command("show")
def show_current(as_json: AsJson = False) -> None:
    """Show the configuration, and what needs a restart to change."""

    async def run(changes: Changes, _: Store, base: Base) -> None:
        version = await _current(changes)
        document = {**base.sections, **version.sections}
        changed = layers.changed_below(base, version.replaced)
        sections = {name: version.name if name in version.sections else "base" for name in document}
        if as_json:
            about = {"version": version.number, "base": base.source, "sections": sections, "changed_below": changed}
            print(json.dumps(about | {"document": document}, indent=2))
            return
        for name, value in document.items():
            note = ", and the base document has changed since" if name in changed else ""
            print(f"# from {sections[name] if name in version.sections else base.source}{note}")
            print(_yaml({name: value}))
        keys = ", ".join(f"ledger.{key}" for key in READ_AT_THE_START)
        print(f"# A change of {keys} or of an environment variable needs a restart.")

    _run(run)


@commands.command()
def diff(
    file: Annotated[Path | None, typer.Argument(help="Compare with these sections instead of the base.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the base document with what is served, or what is served with what FILE would make of it."""
    sections = _sections(file) if file is not None else None

    async def run(changes: Changes, _: Store, base: Base) -> None:
        served = {**base.sections, **(await _current(changes)).sections}
        before, after = (base.sections, served) if sections is None else (served, {**base.sections, **sections})
        _print_differences(before, after, as_json)

    _run(run)


@commands.command()
def apply(
    file: File,
    note: Note = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and show the changes only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the sections in FILE in place of the base document's, and no others. Every instance does within 30 seconds,
    and no call breaks. Exits with 1 if it is refused."""
    sections = _sections(file)

    async def run(changes: Changes, store: Store, base: Base) -> None:
        version = await _current(changes)
        changes.validate(sections)
        if not as_json:
            _print_differences({**base.sections, **version.sections}, {**base.sections, **sections}, as_json)
        if dry_run:
            return
        written = await _recorded(store, "configuration.apply", version, sections, changes, note)
        _say(written, as_json)

    _run(run, as_json)


@commands.command()
def history(as_json: AsJson = False) -> None:
    """List the versions, the newest first."""

    async def run(changes: Changes, _: Store, __: Base) -> None:
        rows = [
            {"version": v.number, "at": v.time, "by": v.by, "sections": ", ".join(v.sections) or "none", "note": v.note}
            for v in await changes.versions.history()
        ]
        show(rows, ["version", "at", "by", "sections", "note"], as_json)

    _run(run)


@commands.command()
def rollback(
    to: Annotated[str, typer.Argument(metavar="VERSION", help="Its number, or `base`: the base document alone.")],
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version again, as a new one."""
    if to != "base" and not (to.isascii() and to.isdecimal() and len(to) <= 8):
        fail(f"VERSION: expected the number of a version or base, got {to[:64]!r} (see: tollgate config history)")

    async def run(changes: Changes, store: Store, _: Base) -> None:
        version = await changes.earlier(0 if to == "base" else int(to))
        said = note or f"rollback to {version.name}"
        current = await _current(changes)
        written = await _recorded(store, "configuration.rollback", current, version.sections, changes, said)
        _say(written, as_json)

    _run(run, as_json)


def _run(run: Callable[[Changes, Store, Base], Coroutine[Any, Any, None]], as_json: bool = False) -> None:
    """Run with the versions in the environment's storage and the base document that the gateway serves, or else that of
    the environment. Exits with 2 if one is unavailable."""

    async def main() -> None:
        async with open_layers() as (store, text, name):
            versions = Versions(store)
            good = await versions.remembered()
            base = layers.base(good.text, good.source) if good is not None else layers.base(await text(), name)
            await run(Changes(versions, lambda: base), store, base)

    try:
        asyncio.run(main())
    except ConfigurationError as error:
        _complain(error, as_json)
    except StoreUnavailable as error:
        fail(str(error))
    except GatewayError as error:
        fail(error.message)


async def _current(changes: Changes) -> Version:
    return await changes.versions.existing((await changes.versions.pointer()).number)


async def _recorded(
    store: Store, action: str, before: Version, sections: Sections, changes: Changes, note: str
) -> Version:
    """Make a version, with a record in the audit trail."""
    name = "unknown"
    with suppress(KeyError, OSError):  # an account without a name
        name = getpass.getuser()
    by = f"{name}@{socket.gethostname()}"
    change = Change(actor=by, address="", action=action, object="configuration", before=before.sections, after=sections)
    return await Audit(store).perform(change, lambda: changes.replace(sections, by, note))


def _say(version: Version, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"version": version.number, "sections": list(version.sections)}))
    else:
        print(f"{version.name} is current: every instance serves it within {2 * EVERY:.0f} s.")


def _sections(file: Path) -> Sections:
    try:
        data = data_of(text_of(file), str(file))
    except ConfigurationError as error:
        _complain(error, False)
    if not isinstance(data, Mapping):
        fail(f"{file}: expected sections of the configuration by name, or {{}} for none")
    return data


def _complain(error: ConfigurationError, as_json: bool) -> NoReturn:
    """Print the complaints, and exit with 1."""
    if as_json:
        print(json.dumps({"complaints": [{"path": one.path, "message": one.message} for one in error.complaints]}))
    else:
        typer.echo(str(error), err=True)
    raise typer.Exit(1)


def _print_differences(before: Sections, after: Sections, as_json: bool) -> None:
    differences = layers.differences(before, after)
    if as_json:
        print(json.dumps([{"section": name, "before": old, "after": new} for name, old, new in differences], indent=2))
        return
    for name, old, new in differences:
        for sign, value in (("-", old), ("+", new)):
            for line in _yaml({name: value}).splitlines() if value is not None else ():
                print(f"{sign} {line}")
    if not differences:
        print("No section differs.")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
