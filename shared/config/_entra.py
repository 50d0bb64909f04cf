"""Checks of the section `entra` that go beyond its schema."""

import re
from collections.abc import Iterator, Set
from urllib.parse import urlsplit

from shared.config import document
from shared.config._expected import SOME, expect
from shared.config._urls import endpoint_problem, redacted
from shared.config.callers import CallerRule
from shared.config.limits import time_zone_problem
from shared.errors import Complaint

GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SELECTORS = ("app_role", "group", "app", "object")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    entra = configuration.entra
    if entra is None:
        return
    problem = endpoint_problem(entra.authority)
    if not problem and urlsplit(entra.authority).scheme == "http":
        problem = "" if urlsplit(entra.authority).hostname in _LOOPBACK else "http is allowed for this machine only"
    if problem:
        expected = "expected https://login.microsoftonline.com"
        yield Complaint("entra.authority", f"{expected}, got {redacted(entra.authority)} ({problem})")
    yield from expect(entra.tenants, "entra.tenants", "at least one tenant")
    for i, tenant in enumerate(entra.tenants):
        yield from expect(GUID.fullmatch(tenant), f"entra.tenants[{i}]", "the id of a tenant as a GUID", tenant)
    yield from expect(entra.audiences, "entra.audiences", "at least one audience, such as api://tollgate")
    for i, audience in enumerate(entra.audiences):
        form = "api://NAME or the id of an application"
        yield from expect(_is_plain(audience), f"entra.audiences[{i}]", form, audience)
    if (page := entra.page_client_id) is not None:
        yield from expect(GUID.fullmatch(page), "entra.page_client_id", "the id of an application as a GUID", page)
    selected: dict[tuple[str | None, ...], int] = {}
    for i, rule in enumerate(entra.callers):
        yield from _rule_complaints(rule, f"entra.callers[{i}]", configuration)
        if (first := selected.setdefault(_selects(rule), i)) < i:
            yield Complaint(f"entra.callers[{i}]", f"duplicate of entra.callers[{first}], which applies first")


def _rule_complaints(rule: CallerRule, at: str, configuration: document.Configuration) -> Iterator[Complaint]:
    yield from expect(any(_selects(rule)), at, f"at least one of {', '.join(_SELECTORS)}, which select its callers")
    for name in ("group", "app", "object"):
        if (value := getattr(rule, name)) is not None:
            yield from expect(GUID.fullmatch(value), f"{at}.{name}", "an id as a GUID", value)
    if (role := rule.app_role) is not None:
        yield from expect(_is_plain(role), f"{at}.app_role", "the value of an app role, such as Gateway.Call", role)
    for name, named, there in (
        ("product", rule.product, configuration.products),
        ("team", rule.team, configuration.team_limits),
    ):
        known = ", ".join(sorted(there)) or f"{name}s, which is empty"
        yield from expect(named is None or named in there, f"{at}.{name}", f"one of {known}", named)
    if problem := time_zone_problem(rule.limits):
        yield Complaint(f"{at}.limits.time_zone", problem)
    places: dict[str, tuple[list[str] | None, Set[str]]] = {
        "models": (rule.models, configuration.callable_names),
        "regions": (rule.regions, configuration.regions),
        "data_zones": (rule.data_zones, configuration.data_zones),
    }
    for name, (allowed, configured) in places.items():
        yield from expect(allowed is None or allowed, f"{at}.{name}", SOME)
        known = ", ".join(sorted(configured)) or "none, since no backend has one"
        for j, one in enumerate(allowed or ()):
            yield from expect(one in configured, f"{at}.{name}[{j}]", f"one of {known}", one)


def _selects(rule: CallerRule) -> tuple[str | None, ...]:
    return tuple(getattr(rule, name) for name in _SELECTORS)


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= 256 and text.isascii() and text.isprintable() and " " not in text
