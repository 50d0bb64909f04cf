"""Runs the command line: `python -m shared.cli`."""

from shared.cli.app import cli

cli(prog_name="tollgate")
