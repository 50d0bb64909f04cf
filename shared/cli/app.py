"""The command line, `tollgate`: one module per family of commands. It reads the gateway's environment."""

from typing import Annotated

import typer

from shared import __version__
from shared.cli import configuration, export, keys, operations, prices, ptu, reconcile, timing, usage

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(keys.commands, name="keys")
cli.add_typer(configuration.commands, name="config")
for family in (usage.commands, prices.commands, export.commands, reconcile.commands, ptu.commands, operations.commands):
    cli.add_typer(family)
cli.add_typer(timing.commands)


def _print_version(version: bool) -> None:
    if version:
        print(f"tollgate {__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Manage a Tollgate gateway: keys, limits, configuration, usage and cost.

    Reads GATEWAY_CONFIG and GATEWAY_STORAGE, as the gateway does."""
