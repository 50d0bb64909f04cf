"""What `python -m shared.cli` runs."""

from shared.cli.app import cli

cli()
