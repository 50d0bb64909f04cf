"""Shared by all commands: settings, store, management API, output and errors."""

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Concatenate, NamedTuple, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import bootstrap
from shared.auth import keys
from shared.cli._client import Client, over_http
from shared.cli._local_client import on_storage
from shared.config import environment
from shared.config.document import Configuration
from shared.config.environment import Settings
from shared.config.parsing import parse
from shared.errors import ConfigurationError, GatewayError, InvalidRequest, StoreUnavailable
from shared.storage import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Identified = Annotated[str, typer.Argument(metavar="ID", help="The consumer's id, or its name if it is unique.")]


class Gateway(NamedTuple):
    """The gateway that commands call over HTTP, and the scope of tokens for it. `url` "": the storage account."""

    url: str = ""
    scope: str = ""


_STORAGE = Gateway()
_gateway = ContextVar("_gateway", default=_STORAGE)


def use(gateway: Gateway) -> None:
    """Choose the gateway for the command that follows."""
    _gateway.set(gateway)


def show(rows: Sequence[Mapping[str, Any]], heads: Sequence[str], as_json: bool) -> None:
    """Print rows as JSON or as a table with these columns."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*(head.replace("_", " ") for head in heads))
    for row in rows:
        table.add_row(*(Text("" if row[head] is None else str(row[head]), overflow="fold") for head in heads))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def show_fields(fields: Mapping[str, Any], as_json: bool) -> None:
    """Print a value as JSON, or as a table with a line per field."""
    cells = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in fields.items())
    if as_json:
        print(json.dumps(fields, indent=2))
    else:
        show([{"field": name, "value": cell} for name, cell in cells], ["field", "value"], False)


def with_client[**P](command: Callable[Concatenate[Client, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a command of a coroutine that works with the management API: of the gateway that the options name, or else
    on the storage of the environment. Exits with 2 if it refuses."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        gateway = _gateway.get()

        async def main() -> None:
            opened = over_http(gateway.url, gateway.scope, os.environ) if gateway.url else on_storage(os.environ)
            async with opened as client:
                await command(client, *args, **kwargs)

        _run(main)

    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "client"]
    run.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return run


def with_store(run: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Run with the store of the environment. Exits with 2 if it is unavailable."""
    _refuse_gateway()

    async def main() -> None:
        async with bootstrap.open_store(environment.load_storage(os.environ)) as store:
            await run(store)

    _run(main)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        asyncio.run(main())
    except (ConfigurationError, StoreUnavailable) as error:
        fail(str(error))
    except InvalidRequest as error:
        fail(f"--{error.message}" if error.param is None and not error.complaints else as_option(error))
    except GatewayError as error:
        fail(as_option(error))


def text_of(file: Path, most: int = -1) -> str:
    """The text of a file that a command names. Ends the command if it cannot be read, or has more than `most` bytes."""
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1 if most >= 0 else -1)
        if 0 <= most < len(data):
            fail(f"{file}: expected at most {most} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        fail(f"{file}: cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        fail(f"{file}: expected UTF-8 text")


def named_models(text: str) -> dict[str, str]:
    """Models with their deployments, in an option such as `NAME,NAME=DEPLOYMENT`."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): deployment.strip() or name.strip() for name, _, deployment in pairs}


def as_option(error: GatewayError) -> str:
    """The message of a refusal, which names the option instead of the field."""
    field = error.param or ""
    option = f"--{field.rpartition('.')[2].replace('_', '-')}"
    return option + error.message.removeprefix(field) if field and error.message.startswith(field) else error.message


async def find(client: Client, identified: str) -> dict[str, Any]:
    """The consumer with this id, or else with this name. Exits with 2 unless there is exactly one."""
    if keys.is_consumer_id(identified):
        try:
            consumer: dict[str, Any] = await client.call("GET", f"/gateway/consumers/{identified}")
        except GatewayError as error:
            if error.status != 404:
                raise
        else:
            return consumer
    matching = [one for one in await pages(client, "/gateway/consumers", name=identified) if one["name"] == identified]
    if len(matching) != 1:
        problem = "several consumers have this name; use the id" if matching else "no consumer has this id or name"
        fail(f"{identified}: {problem} (see: tollgate keys list)")
    return matching[0]


async def pages(client: Client, path: str, **query: str) -> list[dict[str, Any]]:
    """All entries of a list."""
    entries: list[dict[str, Any]] = []
    parameters = {"limit": "1000", **query}
    while True:
        page = await client.call("GET", path, query=parameters)
        entries += page["data"]
        if page["after"] is None:
            return entries
        parameters["after"] = page["after"]


def settings(*, secrets: bool = False) -> Settings:
    """The settings of the environment, with the configuration that the gateway serves. `secrets`: with the keys of its
    backends, which most commands do without. Exits with 2 if they are wrong."""
    _refuse_gateway()

    async def read() -> Settings:
        async with bootstrap.open_store(environment.load_storage(os.environ)) as store:
            return await bootstrap.stored_settings(os.environ, store, secrets=secrets)

    try:
        with ThreadPoolExecutor(1) as thread:  # a command may be in an event loop already
            return thread.submit(asyncio.run, read()).result()
    except ConfigurationError as error:
        fail(str(error))


def over_gateway() -> bool:
    """True if the options name a gateway."""
    return bool(_gateway.get().url)


def _refuse_gateway() -> None:
    if _gateway.get().url:
        fail("--gateway: this command works only on the storage account, in the gateway's environment")


def known_configuration() -> Configuration | None:
    """The configuration that the gateway serves; without a storage account, the base document if it is a file or a
    variable; None if there is none. Exits with 2 if it is wrong."""
    try:
        environment.load_storage(os.environ)
    except ConfigurationError:
        place = environment.source(os.environ)
    else:
        return settings().configuration
    if place.url is not None or (variable("GATEWAY_CONFIG") is None and place.path and not place.path.exists()):
        return None
    try:
        return parse(place.read(), place.name)
    except ConfigurationError as error:
        fail(str(error))


def variable(name: str) -> str | None:
    """A variable of the environment; None if it is not set or empty."""
    return os.environ.get(name) or None


def fail(message: str) -> NoReturn:
    """Exit with 2 and a message on standard error."""
    print(message, file=sys.stderr)
    raise typer.Exit(2)
