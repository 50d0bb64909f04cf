"""Many consumers from one file: what it wants is compared with what is there, shown as a plan, and then done."""

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import typer
import yaml

from shared.auth.client_address import networks
from shared.auth.keys import digest_to_import, new_id
from shared.cli._client import Client
from shared.cli._consumer_options import FIELDS, fields_in, moment
from shared.cli._terminal import as_option, fail, pages, show, text_of
from shared.config.limits import Limits
from shared.errors import GatewayError

_PATH = "/gateway/consumers"
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DEFAULTS: dict[str, Any] = {
    **{"team": "", "products": [], "models": None, "limits": {}, "model_limits": {}, "addresses": [], "regions": None},
    **{"data_zones": None, "pin": False, "explain": False, "whole_account": False, "expires": None},
}


class Step(msgspec.Struct, frozen=True):
    """One consumer of a file. `body`: to be created, or the merge patch. `changes`: field -> its old and new value.
    `sha256`: the hash of a key that its caller had before, or ""."""

    action: Literal["create", "change", "keep"]
    name: str
    id: str
    body: dict[str, Any]
    changes: dict[str, tuple[Any, Any]] = {}
    sha256: str = ""


def read_csv(file: Path) -> list[dict[str, Any]]:
    """The consumers of a CSV file. An empty cell is a field's default. Exits with 2 for an invalid file."""
    try:
        rows = list(csv.DictReader(io.StringIO(text_of(file), newline=""), strict=True))
    except csv.Error as error:
        fail(f"{file}: expected CSV: {error}")
    known = ("id", "name", "state", *FIELDS, *Limits.__struct_fields__, "sha256", "key")
    for column in rows[0] if rows else ():
        if column not in known:
            fail(f"{file}: expected the columns {', '.join(known)}; got {column!r}")
    return _named(file, [_of_row(row, f"{file}:{number}") for number, row in enumerate(rows, 2)])


def _of_row(row: Mapping[str, str | None], where: str) -> dict[str, Any]:
    if None in row or None in row.values():
        fail(f"{where}: expected as many cells as the first line has")
    cells = {column: (value or "").strip() for column, value in row.items()}
    consumer: dict[str, Any] = {name: cells[name] for name in ("id", "name", "state") if cells.get(name)}
    for field in FIELDS:
        if field in cells:
            consumer[field] = _cell(field, cells[field], where)
    if digest := cells.get("sha256") or _digest(cells.get("key", ""), where):
        consumer["sha256"] = digest
    limits = {name: _number(cells[name]) for name in Limits.__struct_fields__ if name in cells}
    if limits:
        consumer["limits"] = limits
    return consumer


def _digest(key: str, where: str) -> str:
    """The hash of a key that its caller had before: the key itself goes nowhere."""
    try:
        return digest_to_import(key) if key else ""
    except ValueError as error:
        fail(f"{where}: key: {error}")


def _cell(field: str, text: str, where: str) -> Any:
    if not text:
        return _DEFAULTS[field]
    if isinstance(_DEFAULTS[field], bool):
        if text.lower() not in _BOOLEANS:
            fail(f"{where}: {field}: expected true or false, got {text}")
        return _BOOLEANS[text.lower()]
    return fields_in({field: text.replace(";", ",").replace(" ", ",") if field != "team" else text})[field]


def _number(text: str) -> Any:
    """A limit in a cell: a number, a word, or None for an empty one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def read_yaml(file: Path) -> list[dict[str, Any]]:
    """The consumers of a YAML or JSON file. A field that a consumer lacks gets its default, except the state. Exits
    with 2 for an invalid file."""
    try:
        document = yaml.safe_load(text_of(file))
    except yaml.YAMLError as error:
        fail(f"{file}: {' '.join(str(error).split())}")
    consumers = document.get("consumers") if isinstance(document, dict) else None
    if not isinstance(consumers, list) or not all(isinstance(one, dict) for one in consumers):
        fail(f"{file}: expected {{consumers: [{{name: …}}, …]}}")
    if extra := document.keys() - {"consumers"}:
        fail(f"{file}: expected only consumers, got {', '.join(map(str, sorted(extra, key=str)))}")
    whole = [{**_DEFAULTS, **msgspec.to_builtins(one, str_keys=True)} for one in consumers]
    for one in whole:
        if "key" in one:
            one["sha256"] = _digest(str(one.pop("key")), str(file))
        if isinstance(one["limits"], dict):
            one["limits"] = dict.fromkeys(Limits.__struct_fields__) | one["limits"]
        if one["expires"] is not None:
            one["expires"] = moment(str(one["expires"]))
    return _named(file, whole)


def _named(file: Path, consumers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [one.get("name") for one in consumers]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            fail(f"{file}: expected a name for every consumer, got {name!r}")
        if names.count(name) > 1:
            fail(f"{file}: expected every name once, got {name!r} {names.count(name)} times")
    return consumers


def plan(desired: Iterable[Mapping[str, Any]], existing: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The steps that make the existing consumers be as desired. A consumer is found by its id, if the file has one, or
    else by its name. Exits with 2 for a name that several have. Pure."""
    by_id, by_name = {one["id"]: one for one in existing}, dict[str, list[Mapping[str, Any]]]()
    for one in by_id.values():
        by_name.setdefault(one["name"], []).append(one)
    return [_step(one, by_id, by_name.get(one["name"].strip(), [])) for one in desired]


def _step(row: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]], namesakes: list[Mapping[str, Any]]) -> Step:
    digest, desired = row.get("sha256", ""), {field: value for field, value in row.items() if field != "sha256"}
    name, consumer_id = desired["name"].strip(), desired.get("id")
    if consumer_id is None and len(namesakes) > 1:
        fail(f"{name}: several consumers have this name; put their ids into the file")
    old = by_id.get(consumer_id) if consumer_id else next(iter(namesakes), None)
    if old is None:
        limits = {field: value for field, value in (desired.get("limits") or {}).items() if value is not None}
        return Step("create", name, consumer_id or "", {**desired, "name": name, "limits": limits}, sha256=digest)
    after = {field: _after(field, old.get(field), value) for field, value in desired.items()}
    changes = {field: (old.get(field), value) for field, value in after.items() if _differs(field, old, value)}
    body = {
        field: _patch(old[field], desired[field]) if field == "model_limits" else desired[field] for field in changes
    }
    return Step("change" if changes else "keep", name, old["id"], body, changes, digest)


def _after(field: str, before: Any, value: Any) -> Any:
    """The value of a field after the change. Limits that are not mentioned stay."""
    if field != "limits" or not isinstance(value, dict):
        return value
    return {name: amount for name, amount in {**before, **value}.items() if amount is not None}


def _patch(old: Any, value: Any) -> Any:
    """The merge patch that makes the old value this one."""
    if not isinstance(value, dict) or not isinstance(old, Mapping):
        return value
    return {**dict.fromkeys(old), **{name: _patch(old.get(name), inner) for name, inner in value.items()}}


def _differs(field: str, old: Mapping[str, Any], value: Any) -> bool:
    if field not in old:
        return True  # an unknown field, which the gateway refuses by its name
    return bool(_comparable(field, value) != _comparable(field, old[field]))


def _comparable(field: str, value: Any) -> Any:
    if field == "addresses":
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            return networks(value or ())
    if field == "state":
        return "active" if value == "expired" else value
    return sorted(value) if field in ("models", "regions", "data_zones") and isinstance(value, list) else value


async def apply(client: Client, desired: list[dict[str, Any]], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Print the plan, ask, and do it. Exits with 2 at the first step that is refused, after
    showing the keys that were made before it."""
    steps = plan(desired, await pages(client, _PATH))
    if not as_json or dry_run:
        _print_plan(steps, as_json)
    due = [step for step in steps if step.action != "keep" or step.sha256]
    if dry_run or (not due and not as_json):
        return
    changes = sum(step.action != "keep" for step in steps)
    if changes and not yes:
        typer.confirm(f"{changes} changes. Go on?", abort=True, err=True)
    made, changed, refusal = list[dict[str, Any]](), list[dict[str, Any]](), ""
    for step in due:
        try:
            one = await _do(client, step)
        except GatewayError as error:
            refusal = f"{step.name}: {as_option(error)}"
            break
        if step.action != "keep":
            names = ("id", "name", *(("key",) if step.action == "create" else ()))
            (made if step.action == "create" else changed).append({name: one.get(name) for name in names})
    kept = [{"id": step.id, "name": step.name} for step in steps if step.action == "keep"]
    if as_json:
        print(json.dumps({"created": made, "changed": changed, "unchanged": kept}, indent=2))
    else:
        print(f"Created {len(made)}, changed {len(changed)}, effective within 60 seconds.")
        if made:
            show(made, ["id", "name", "key"], False)
            print("Keep the keys now: they are stored as hashes and cannot be shown again.")
    if refusal:
        fail(f"{refusal} The changes above are done; correct the file, and run the command again.")


async def _do(client: Client, step: Step) -> dict[str, Any]:
    """Make one step. The answer has `key` if the consumer is new and its key was not given."""
    answer: dict[str, Any] = {"id": step.id, "name": step.name}
    if step.action == "change":
        answer = await client.call("PATCH", f"{_PATH}/{step.id}", step.body)
    elif step.action == "create" and step.sha256:
        body = {name: value for name, value in step.body.items() if name != "id"}
        answer = await client.call("PUT", f"{_PATH}/{step.id or new_id(10)}", body)
    elif step.action == "create":
        answer = await client.call("POST", _PATH, step.body)
    if step.sha256:
        await client.call("POST", f"{_PATH}/{answer['id']}/keys", {"sha256": step.sha256})
    return answer


def _print_plan(steps: list[Step], as_json: bool) -> None:
    rows = [
        {
            "action": step.action,
            "name": step.name,
            "id": step.id or None,
            "changes": {field: {"from": old, "to": new} for field, (old, new) in step.changes.items()}
            if as_json
            else ", ".join(f"{field}: {_short(old)} -> {_short(new)}" for field, (old, new) in step.changes.items()),
        }
        for step in steps
    ]
    show(rows, ["action", "name", "id", "changes"], as_json)


def _short(value: Any) -> str:
    return json.dumps(value)[:200]
