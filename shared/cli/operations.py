"""`check` and `rollup`: maintenance by hand."""

import asyncio
import json

import msgspec
import typer

from shared.cli import _backend_check as checks
from shared.cli._terminal import AsJson, settings, show, with_store
from shared.storage import Store
from shared.usage import rollup

commands = typer.Typer()


@commands.command()
def check(as_json: AsJson = False) -> None:
    """Call every deployment of every backend with a minimal request. Exits with 1 if one is not usable."""
    findings = asyncio.run(checks.check(settings()))
    rows = [msgspec.to_builtins(finding) for finding in findings]
    show(rows, ["backend", "region", "model", "deployment", "usable", "result"], as_json)
    if not all(finding.usable for finding in findings):
        raise typer.Exit(1)


@commands.command("rollup")
def roll_up(as_json: AsJson = False) -> None:
    """Roll raw usage up to hours, days and months now, as the timer does."""

    async def run(store: Store) -> None:
        summary = msgspec.to_builtins(await rollup.roll_up(store))
        print(
            json.dumps(summary)
            if as_json
            else ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items())
        )

    with_store(run)
