"""Checks of the backends of the configuration document that go beyond their schema. Pure."""

import re
from collections.abc import Iterator

from shared.config import document
from shared.config._expected import expect
from shared.config._urls import endpoint_problem, redacted
from shared.config.days import is_day
from shared.errors import Complaint

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESOURCE_ID = re.compile(
    r"(?i)/subscriptions/[0-9a-f-]{36}/resourceGroups/[^/\s]+/providers/Microsoft\.CognitiveServices/accounts/[^/\s]+"
)
REGION = re.compile(r"[A-Za-z0-9 ._-]{1,64}")  # it is part of the host to which `azure_monitor` sends tokens
API_VERSION = re.compile(r"v1|\d{4}-\d{2}-\d{2}(-preview)?")
NAMES = "letters, digits, '.', '_' or '-', 64 at most"
OPENAI_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")  # as ft:gpt-4.1-mini-2025-04-14:contoso::B2xFvDr9


def complaints(backend: document.Backend, at: str) -> Iterator[Complaint]:
    """All complaints about a backend, which has the path `at`."""
    if backend.api != "azure":
        yield from _vendor_complaints(backend, at)
    yield from expect(NAME.fullmatch(backend.name), f"{at}.name", NAMES, backend.name)
    region = "the name of an Azure region such as swedencentral"
    yield from expect(REGION.fullmatch(backend.region), f"{at}.region", region, backend.region)
    if problem := endpoint_problem(backend.endpoint):
        yield Complaint(
            f"{at}.endpoint", f"expected https://NAME.openai.azure.com, got {redacted(backend.endpoint)} ({problem})"
        )
    host = backend.endpoint.rstrip("/").lower()
    claude = next((name for name, own in backend.deployments.items() if "claude" in f"{name} {own}".lower()), "")
    if claude and host.endswith((".openai.azure.com", ".cognitiveservices.azure.com")):
        yield Complaint(f"{at}.endpoint", f"expected https://NAME.services.ai.azure.com, where Azure serves {claude!r}")
    version = "v1 or a dated version such as 2024-10-21"
    yield from expect(API_VERSION.fullmatch(backend.api_version), f"{at}.api_version", version, backend.api_version)
    if (resource_id := backend.resource_id) is not None:
        form = "/subscriptions/…/resourceGroups/…/providers/Microsoft.CognitiveServices/accounts/NAME"
        yield from expect(RESOURCE_ID.fullmatch(resource_id), f"{at}.resource_id", form, resource_id)
    yield from expect(backend.models, f"{at}.models", "at least one model with its deployment")
    for model in backend.tokens_per_minute:
        yield from expect(model in backend.models, f"{at}.tokens_per_minute.{model}", "a model of this backend")
    names, what = (NAME, "a deployment") if backend.api == "azure" else (OPENAI_MODEL, "a model")
    for model, deployment in backend.deployments.items():
        printable = "names of 1 to 128 printable characters without spaces and '/'"
        yield from expect(is_model_name(model), f"{at}.models", printable, model)
        yield from expect(names.fullmatch(deployment), f"{at}.models.{model}", f"the name of {what}", deployment)
    if backend.capacity and backend.kind != "provisioned":
        yield Complaint(f"{at}.capacity", f"expected kind: provisioned with it, got kind: {backend.kind}")
    for i, capacity in enumerate(backend.capacity):
        place, model, since = f"{at}.capacity[{i}]", capacity.model, capacity.since
        yield from expect(model in backend.models, f"{place}.model", "a model of this backend", model)
        yield from expect(since and is_day(since), f"{place}.from", "a date as 2026-08-01", since)


def _vendor_complaints(backend: document.Backend, at: str) -> Iterator[Complaint]:
    """Complaints about keys that say something of Azure alone."""
    if backend.auth == "managed_identity":
        yield Complaint(
            f"{at}.auth", f"expected {{api_key_env: NAME}} with kind: {backend.kind}, which takes no managed identity"
        )
    for key, is_set in (
        ("token_scope", backend.token_scope is not None),
        ("api_version", backend.api_version != "v1"),
        ("data_zone", backend.data_zone is not None),
        ("deployment", backend.deployment is not None),
        ("resource_id", backend.resource_id is not None),
    ):
        if is_set:
            yield Complaint(f"{at}.{key}", f"not allowed with kind: {backend.kind}, which has no {_AT_AZURE[key]}")


_AT_AZURE = {
    "token_scope": "tokens of Entra ID",
    "api_version": "dated API",
    "data_zone": "data zones: keys limited to data zones never reach it",
    "deployment": "types of deployments",
    "resource_id": "resource in Azure",
}


def is_model_name(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isascii() and name.isprintable() and not set(name) & set(" /\\#?%|'\"")
