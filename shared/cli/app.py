"""The command line, `python -m shared.cli`; one module for each family of commands. Reads the gateway's environment."""

import typer

from shared.cli import export, keys, limits, operations, ptu, reconcile, usage

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Tollgate's command line."
)
cli.add_typer(keys.commands, name="keys")
for family in (limits.commands, usage.commands, export.commands, reconcile.commands, ptu.commands, operations.commands):
    cli.add_typer(family)
