"""`backends`: take one out of service for a time, and back."""

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shared.cli._terminal import AsJson, fail, settings, show, with_store
from shared.errors import ResourceNotFound, StillNeeded
from shared.management.audit import Audit, Change
from shared.management.drains import DrainTable, reason_of, seconds
from shared.storage import Store

commands = typer.Typer(no_args_is_help=True, help="Backends, and which of them are drained.")

Named = Annotated[str, typer.Argument(metavar="NAME", help="The backend's name in the configuration.")]


@commands.command("list")
def list_backends(as_json: AsJson = False) -> None:
    """List the backends, and until when some are drained."""
    configuration = settings().configuration

    async def run(store: Store) -> None:
        drains = await DrainTable(store, configuration, Audit(store)).current()
        rows: list[dict[str, Any]] = []
        for backend in configuration.backends:
            drain = drains.get(backend.name)
            row = {name: getattr(backend, name) for name in ("name", "region", "kind", "priority", "weight")}
            row["drained_until"] = _when(drain.until) if drain else None
            rows.append(row | {"reason": drain.reason if drain else None, "by": drain.by if drain else None})
        show(rows, ["name", "region", "kind", "priority", "weight", "drained_until", "reason", "by"], as_json)

    with_store(run)


@commands.command()
def drain(
    name: Named,
    lasts: Annotated[str, typer.Option("--for", help="Duration, e.g. 30m, 2h, 1d; at most 30d.")],
    reason: Annotated[str, typer.Option(help="Shown to other operators.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also if a model then has no backend.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send no new calls to a backend for a time. Effective everywhere within 5 seconds."""
    configuration = settings().configuration

    async def run(store: Store) -> None:
        table, by = DrainTable(store, configuration, Audit(store)), _operator()
        try:
            drained = await table.drain(name, seconds(lasts), reason_of(reason), by, _change, force=force)
        except (ResourceNotFound, StillNeeded) as error:
            fail(error.message)
        until = _when(drained.until)
        print(json.dumps({"name": name, "drained_until": until}) if as_json else f"{name} is drained until {until}")

    with_store(run)


@commands.command()
def restore(name: Named, as_json: AsJson = False) -> None:
    """End the drain of a backend."""
    configuration = settings().configuration

    async def run(store: Store) -> None:
        try:
            await DrainTable(store, configuration, Audit(store)).restore(name, _operator(), _change)
        except ResourceNotFound as error:
            fail(error.message)
        print(json.dumps({"name": name, "drained_until": None}) if as_json else f"{name} is in service")

    with_store(run)


def _operator() -> str:
    """The actor of a change in the audit trail: who runs the command."""
    return f"command line ({getpass.getuser()})"


def _change(action: str, of: str, before: object, after: object) -> Change:
    return Change(actor=_operator(), address="", action=action, object=of, before=before, after=after)


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
