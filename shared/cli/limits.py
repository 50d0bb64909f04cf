"""`limits`: their current state."""

from typing import Annotated

import typer

from shared.auth.consumers import Consumers
from shared.cli._terminal import AsJson, find, settings, show, with_store
from shared.limits import report
from shared.limits import scopes as allowances
from shared.storage import Store

commands = typer.Typer()


@commands.command("limits")
def show_limits(
    identified: Annotated[str | None, typer.Argument(metavar="ID", help="The consumer; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show each limit: used, available, leased by instances, and when it will be used up."""
    configuration = settings().configuration

    async def run(store: Store) -> None:
        records = [await find(store, identified)] if identified else await Consumers(store).all()
        scopes = allowances.of_all((record.consumer for record in records), configuration)
        lines = await report.report(store, scopes)
        heads = ["about", "unit", "per", "limit", "available", "used", "on_lease", "forecast", "exhausted", "renews"]
        show(lines if as_json else [dict.fromkeys(heads) | line for line in lines], heads, as_json)

    with_store(run)
