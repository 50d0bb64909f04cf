"""`prices`: the price of every configured model, where it is served."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import typer

from shared.billing.prices import Prices
from shared.cli._terminal import AsJson, fail, settings, show
from shared.config.document import Configuration
from shared.config.prices import Tier
from shared.token_classes import AMOUNTS

commands = typer.Typer()

_HEADS = ("model", "backend", "region", "deployment", "tier", "context", "prices", "from", "source")


@commands.command("prices")
def show_prices(
    model: Annotated[str | None, typer.Argument(help="Only this model, by its name or an alias.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each model costs now, in USD per million tokens or characters or per piece, and from which source.

    A model without a known price has an empty line: its calls cost nothing in reports, and no budget counts them."""
    configuration = settings().configuration
    named = configuration.canonical(model) if model else None
    if named is not None and named not in configuration.model_names():
        fail(f"{model}: expected one of the configured models, {', '.join(configuration.model_names())}")
    lines = [line for line in _lines(configuration, time.time()) if named in (None, line["model"])]
    if not as_json:
        lines = [line | {"prices": ", ".join(f"{k} {v:.10g}" for k, v in line["prices"].items())} for line in lines]
    show(lines, list(_HEADS), as_json)


def _lines(configuration: Configuration, now: float) -> Iterator[dict[str, Any]]:
    """One line per model, backend, tier and context that has a price; one without prices if no tier has any."""
    prices = Prices(configuration.prices, configuration.backends)
    for model in configuration.model_names():
        for backend in configuration.backends:
            if model not in backend.models:
                continue
            place = {"model": model, "backend": backend.name, "region": backend.region}
            place["deployment"] = backend.priced_as(model)
            priced = False
            for tier in get_args(Tier):
                for context in ("short", "long"):
                    entry = prices.line(model, now, backend=backend.name, tier=tier, long=context == "long")
                    if entry is None or entry.line.context != context:  # long context without a separate price
                        continue
                    priced = True
                    amounts = {name: usd for name in AMOUNTS if (usd := getattr(entry.line, name)) is not None}
                    about = {"tier": tier, "context": context, "prices": amounts}
                    yield place | about | {"from": entry.line.since or "always", "source": entry.source}
            if not priced:
                yield place | {"tier": "", "context": "", "prices": {}, "from": "", "source": "none"}
