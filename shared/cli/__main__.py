"""What `python -m shared.cli` runs."""

from shared.cli import cli

cli()
