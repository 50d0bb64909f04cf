"""Refuses operations that read the objects of all consumers in a backend's resource: the ids in their data are not
checked, or they search by themselves. The operator may allow them to a key (`Access.whole_account`)."""

from collections.abc import Mapping

from shared.affinity._rows import Location
from shared.azure_openai.batch_lines import is_self_contained
from shared.azure_openai.json_body import JsonFields
from shared.errors import WholeAccountNotAllowed
from shared.types import Call, Consumer, Reference

_OWN_SOURCES = ("file_content", "file_id")  # the sources of an eval that hold data of their caller


def check(consumer: Consumer, call: Call, locations: Mapping[Reference, Location]) -> None:
    """Raise `WholeAccountNotAllowed` for a call that may read more than its caller's objects. `locations`: of the
    objects that it names. Raises `InvalidRequest`, too."""
    if consumer.access.whole_account or not call.body:
        return
    match call.operation.name:
        case "evals.runs.create":
            _check_eval(JsonFields(call.body, call.values))
        case "batches.create":
            _check_batch(call, locations)


def _check_eval(fields: JsonFields) -> None:
    source = fields.below("data_source").below("source").get("type", str, "the type of a source")
    if source not in _OWN_SOURCES:
        raise WholeAccountNotAllowed(
            f"This key may evaluate its own data only: expected a data_source whose source has the type "
            f"{' or '.join(_OWN_SOURCES)}. Ask the gateway's operator for a key with --whole-account.",
            param="data_source",
        )


def _check_batch(call: Call, locations: Mapping[Reference, Location]) -> None:
    fields = JsonFields(call.body, call.values)
    endpoint = fields.get("endpoint", str, "a path") or ""
    if endpoint and not is_self_contained(endpoint):
        raise WholeAccountNotAllowed(
            f"This key may not send batches to {endpoint[:128]}: their requests may name other callers' objects. Ask "
            "the gateway's operator for a key with --whole-account.",
            param="endpoint",
        )
    if not all(location.checked for location in locations.values()):
        raise WholeAccountNotAllowed(
            "This key may not send this batch: its lines are unknown, name objects, or use other endpoints than "
            "chat/completions, completions, embeddings and moderations. Upload another file through the gateway, with "
            "at most 200,000 lines of 4 MB, or ask its operator for a key with --whole-account.",
            param="input_file_id",
        )
