"""The two layers of the configuration: a base document, and on top a version, which replaces whole sections. Pure.

The base document is infrastructure's, a version is an operator's. What guards the gateway's tokens and keys stands in
the base document alone: a version names no host and no secret that the base document does not allow."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.config.callers import EntraSettings
from shared.config.document import ApiKey, Backend, Configuration
from shared.config.parsing import checked, data_of
from shared.errors import Complaint, ConfigurationError

Sections = Mapping[str, Any]
"""Sections of the document by name, as its data."""

BASE_ONLY = {  # section -> the reason
    "allowed": "it says what a version may name",
    "allowed_networks": "a version could shut out its operators",
    "azure_monitor": "tokens are sent to it",
    "ledger": "it is read at the start of a process",
}
_FIELDS = Configuration.__struct_encode_fields__
_CLOUDS = ("azure.com", "azure.us", "azure.cn")
_AZURE = (
    *(f".{service}.{cloud}" for service in ("openai", "cognitiveservices") for cloud in _CLOUDS),
    ".services.ai.azure.com",
)
_AZURE_SCOPES = frozenset(
    ("https://ai.azure.com/.default", *(f"https://cognitiveservices.{cloud}/.default" for cloud in _CLOUDS))
)


class Base(msgspec.Struct, frozen=True):
    """The base document. `source` is its name in complaints, `digest` identifies its text."""

    source: str
    text: str
    digest: str
    sections: dict[str, Any]
    configuration: Configuration


def base(text: str, source: str) -> Base:
    """Read a base document, which is valid by itself. Raises `ConfigurationError` with all complaints."""
    data = data_of(text, source)
    configuration, complaints = checked(copy.deepcopy(data))
    if complaints or configuration is None:
        raise ConfigurationError(*(complaint._replace(source=source) for complaint in complaints))
    assert isinstance(data, dict)
    return Base(source, text, digest(text), data, configuration)


def digest(text: str) -> str:
    """The fingerprint of the text of a base document."""
    return hashlib.sha256(text.encode()).hexdigest()


def effective(below: Base, sections: Sections, name: str) -> Configuration:
    """The base document with these sections in place. `name`: of the version, in complaints. Raises
    `ConfigurationError` with all complaints."""
    if not sections:
        return below.configuration
    complaints = [
        Complaint(section, f"expected in the base document only, because {reason}")
        for section, reason in BASE_ONLY.items()
        if section in sections
    ]
    known = {name: value for name, value in sections.items() if name in _FIELDS}
    complaints += [
        Complaint(name, f"expected a section of the document: {', '.join(_FIELDS)}") for name in sections.keys() - known
    ]
    configuration, others = checked(copy.deepcopy({**below.sections, **known}))
    complaints += others
    complaints += _unnamed_variables(below, sections)
    if configuration is not None and "backends" in sections:
        complaints += _foreign(below.configuration, configuration.backends)
    if configuration is not None and configuration.entra is not None and "entra" in sections:
        complaints += _foreign_identities(below.configuration.entra, configuration.entra)
    if complaints or configuration is None:
        raise ConfigurationError(
            *(one._replace(source=name if _section(one.path) in sections else below.source) for one in complaints)
        )
    return configuration


def digests(below: Base, sections: Sections) -> dict[str, str]:
    """The digest of each section of the base document that these replace; "" if it has no section of that name."""
    return {name: _digest(below.sections[name]) if name in below.sections else "" for name in sections}


def changed_below(below: Base, replaced: Mapping[str, str]) -> list[str]:
    """The sections of the base document that have changed since a version replaced them, by their digests then."""
    return [name for name, digest in digests(below, replaced).items() if digest != replaced[name]]


def differences(before: Sections, after: Sections) -> list[tuple[str, Any, Any]]:
    """The sections that differ, each with its value before and after; None: it is not there."""
    names = dict.fromkeys((*before, *after))
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _section(path: str) -> str:
    """The section of a complaint's path."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


# --- what a version may name ------------------------------------------------------------------------------------------


def _foreign(below: Configuration, backends: list[Backend]) -> Iterator[Complaint]:
    """Complaints about places to which a version's backends would send a token or a key."""
    hosts = {_place(backend.endpoint) for backend in below.backends} | {host.lower() for host in below.allowed.hosts}
    scopes = _AZURE_SCOPES | {backend.token_scope for backend in below.backends}
    keys = {(b.auth.api_key_env, _place(b.endpoint)) for b in below.backends if isinstance(b.auth, ApiKey)}
    keys |= {(variable, host.lower()) for variable, host in below.allowed.api_keys.items()}
    for i, backend in enumerate(backends):
        place = _place(backend.endpoint)
        if place not in hosts and not (backend.endpoint.startswith("https://") and place.endswith(_AZURE)):
            expected = "expected a host of Azure OpenAI, of the base document's backends or of its `allowed.hosts`"
            yield Complaint(f"backends[{i}].endpoint", f"{expected}, got {place[:253]!r}")
        if backend.token_scope is not None and backend.token_scope not in scopes:
            expected = "expected a scope of Azure OpenAI or of the base document's backends"
            yield Complaint(f"backends[{i}].token_scope", f"{expected}, got {backend.token_scope[:128]!r}")
        if isinstance(backend.auth, ApiKey) and (backend.auth.api_key_env, place) not in keys:
            expected = "expected a variable that the base document names for this host, under `backends` or in"
            yield Complaint(f"backends[{i}].auth.api_key_env", f"{expected} `allowed.api_keys`")


def _foreign_identities(below: EntraSettings | None, entra: EntraSettings) -> Iterator[Complaint]:
    """Complaints about where a version would have tokens come from: who may say who an operator is, the base document
    decides."""
    if below is None:
        yield Complaint("entra", "expected a section of this name in the base document, which names the tenants")
        return
    if entra.authority != below.authority:
        yield Complaint("entra.authority", f"expected that of the base document, {below.authority}")
    if entra.page_client_id not in (None, below.page_client_id):
        expected = f"expected that of the base document, {below.page_client_id or 'which has none'}"
        yield Complaint("entra.page_client_id", expected)
    for name in ("tenants", "audiences"):
        known = getattr(below, name)
        for i, one in enumerate(getattr(entra, name)):
            if one not in known:
                expected = f"expected one of the base document's {name}, {', '.join(known)}"
                yield Complaint(f"entra.{name}[{i}]", f"{expected}; got {one!r}")


def _place(endpoint: str) -> str:
    """Host and port of an endpoint; the port only if it is not the usual one of its scheme."""
    try:
        parts = urlsplit(endpoint)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        return (parts.hostname or "") + ("" if parts.port in (None, usual) else f":{parts.port}")
    except ValueError:  # there is a complaint about it already
        return ""


def _unnamed_variables(below: Base, sections: Sections) -> Iterator[Complaint]:
    """Complaints about variables of the environment that the base document does not name under the same key: each
    holds a secret, and a version must not choose which one is sent or used."""
    known = {(key, value) for _, key, value in _variables("", below.sections)}
    for path, key, value in _variables("", sections):
        if key != "api_key_env" and (key, value) not in known:  # keys of backends also have to fit their host
            yield Complaint(path, f"expected a variable that the base document names as a `{key}`")


def _variables(at: str, value: Any) -> Iterator[tuple[str, str, str]]:
    """The path, the key and the value of every entry that names a variable: its key ends with `_env`."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _variables(f"{at}[{i}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            path = f"{at}.{key}" if at else key
            if key.endswith("_env") and isinstance(item, str):
                yield path, key, item
            yield from _variables(path, item)
