"""The command line, `tollgate`: one module per family of commands. It reads the gateway's environment."""

from typing import Annotated

import typer

from shared import __version__
from shared.cli import (
    access,
    backends,
    configuration,
    export,
    import_apim,
    keys,
    named_sections,
    operations,
    prices,
    ptu,
    reconcile,
    requests,
    timing,
    usage,
)
from shared.cli._client import DEFAULT_SCOPE
from shared.cli._terminal import Gateway, use

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(keys.commands, name="keys")
cli.add_typer(named_sections.products, name="products")
cli.add_typer(named_sections.teams, name="teams")
cli.add_typer(access.commands, name="access")
cli.add_typer(backends.commands, name="backends")
cli.add_typer(configuration.commands, name="config")
cli.add_typer(requests.commands, name="requests")
for family in (usage, prices, export, reconcile, ptu, operations, timing, import_apim):
    cli.add_typer(family.commands)


def _print_version(version: bool) -> None:
    if version:
        print(f"tollgate {__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    gateway: Annotated[
        str, typer.Option(envvar="TOLLGATE_GATEWAY", help="The address of a gateway, e.g. https://gateway.example.com.")
    ] = "",
    scope: Annotated[
        str, typer.Option(envvar="TOLLGATE_SCOPE", help="The scope of tokens for the gateway.")
    ] = DEFAULT_SCOPE,
) -> None:
    """Manage a Tollgate gateway: keys, limits, configuration, usage and cost.

    With --gateway over HTTPS, with TOLLGATE_MANAGEMENT_KEY or as the user of `az login`. Otherwise on the storage
    account, with GATEWAY_CONFIG and GATEWAY_STORAGE as the gateway has them."""
    use(Gateway(gateway, scope))
