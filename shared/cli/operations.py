"""`check` and `rollup`: what an operator runs by hand now and then."""

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
    """Is every backend reachable, authorised, deployed? Exit code 1 if one is not."""
    findings = asyncio.run(checks.check(settings()))
    rows = [msgspec.to_builtins(finding) for finding in findings]
    show(rows, ["backend", "region", "model", "deployment", "usable", "result"], as_json)
    if not all(finding.usable for finding in findings):
        raise typer.Exit(1)


@commands.command("rollup")
def roll_up(as_json: AsJson = False) -> None:
    """One pass of the timer's job now: raw usage to hours, days and months."""

    async def run(store: Store) -> None:
        summary = msgspec.to_builtins(await rollup.roll_up(store))
        print(
            json.dumps(summary)
            if as_json
            else ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items())
        )

    with_store(run)
