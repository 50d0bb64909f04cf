"""`import-apim`: a policy of API Management as a configuration, with what could not be carried over."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, get_args

import typer
import yaml

from shared.cli import _apim_openapi as specification
from shared.cli import _apim_policies as policies
from shared.cli import _apim_xml as xml
from shared.cli._apim_draft import Draft, Kind, Note
from shared.cli._terminal import fail, named_models, text_of
from shared.config.parsing import parse
from shared.errors import ConfigurationError

commands = typer.Typer()
_NOT_CARRIED_OVER = 3  # exit code with --strict


@commands.command("import-apim")
def import_policy(
    policy: Annotated[Path, typer.Argument(help="The policy, in XML, as the portal or `az` shows it.")],
    openapi: Annotated[Path | None, typer.Option(help="The API's specification, in JSON.")] = None,
    endpoint: Annotated[str, typer.Option(help="The API's own backend, which policies do not name.")] = "",
    models: Annotated[
        str, typer.Option(help="Models of the backends, separated by commas; NAME=DEPLOYMENT if Azure differs.")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="Write the configuration into this file.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if anything was not carried over.")] = False,
) -> None:
    """Convert an API Management policy into a configuration.

    Prints the configuration, or writes it with --output. Standard error has a list by line of the policy: carried over,
    different, to do, and not carried over. Nothing is called, and no secret is copied."""
    draft = Draft()
    if endpoint:
        draft.add_backend(None, endpoint, "", 1)
    draft.models = named_models(models)
    try:
        policies.read_into(draft, xml.read(text_of(policy, xml.MOST_BYTES)))
        if openapi is not None:
            specification.read_into(draft, text_of(openapi, specification.MOST_BYTES))
    except xml.PolicyUnreadable as error:
        fail(f"{policy}: {error}")
    except ValueError as error:
        fail(f"{openapi}: {error}")
    draft.todo(None, "keys: make them with `tollgate keys create`, or keep your callers' with `keys import`")
    text = yaml.safe_dump(draft.document(), sort_keys=False, allow_unicode=True, width=120)
    _check(text)
    _tell(draft.notes)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)
    if strict and any(note.kind == "not carried over" for note in draft.notes):
        raise typer.Exit(_NOT_CARRIED_OVER)


def _check(text: str) -> None:
    """Exit with 2 for a configuration that the gateway would refuse."""
    try:
        parse(text, "the resulting configuration")
    except ConfigurationError as error:
        print(text, end="", file=sys.stderr)
        fail(str(error))


def _tell(notes: Iterable[Note]) -> None:
    ordered = sorted(notes)
    for kind in get_args(Kind):
        lines = [note for note in ordered if note.kind == kind]
        if not lines:
            continue
        print(f"{kind}:", file=sys.stderr)
        for note in lines:
            place = f"line {note.line}, {note.policy}" if note.line else "configuration"
            print(f"  {place}: {note.text}", file=sys.stderr)
