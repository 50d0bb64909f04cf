"""Checks of the section `entra` that go beyond its schema."""

import re
from collections.abc import Callable, Iterator, Set
from urllib.parse import urlsplit

from shared.config import document
from shared.config.limits import time_zone_problem
from shared.errors import Complaint

GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SELECTORS = ("app_role", "group", "app", "object")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def complaints(
    configuration: document.Configuration, url_problem: Callable[[str], str], shown: Callable[[str], str]
) -> Iterator[Complaint]:
    """All complaints about the section. `url_problem`: the complaint about an
    address without a path, or ""; `shown`: an address without what may be secret."""
    entra = configuration.entra
    if entra is None:
        return
    problem = url_problem(entra.authority)
    if not problem and urlsplit(entra.authority).scheme == "http":
        problem = "" if urlsplit(entra.authority).hostname in _LOOPBACK else "http is allowed for this machine only"
    if problem:
        expected = "expected https://login.microsoftonline.com"
        yield Complaint("entra.authority", f"{expected}, got {shown(entra.authority)} ({problem})")
    if not entra.tenants:
        yield Complaint("entra.tenants", "expected at least one tenant")
    for i, tenant in enumerate(entra.tenants):
        if not GUID.fullmatch(tenant):
            yield Complaint(f"entra.tenants[{i}]", f"expected the id of a tenant as a GUID, got {tenant!r}")
    if not entra.audiences:
        yield Complaint("entra.audiences", "expected at least one audience, such as api://tollgate")
    for i, audience in enumerate(entra.audiences):
        if not _is_plain(audience):
            expected = "expected api://NAME or the id of an application"
            yield Complaint(f"entra.audiences[{i}]", f"{expected}, got {audience!r}")
    if entra.page_client_id is not None and not GUID.fullmatch(entra.page_client_id):
        expected = "expected the id of an application as a GUID"
        yield Complaint("entra.page_client_id", f"{expected}, got {entra.page_client_id!r}")
    selected: dict[tuple[str | None, ...], int] = {}
    for i, rule in enumerate(entra.callers):
        yield from _rule_complaints(rule, f"entra.callers[{i}]", configuration)
        if (first := selected.setdefault(_selects(rule), i)) < i:
            expected = f"expected other callers than entra.callers[{first}] has, which applies first"
            yield Complaint(f"entra.callers[{i}]", expected)


def _rule_complaints(rule: document.CallerRule, at: str, configuration: document.Configuration) -> Iterator[Complaint]:
    if not any(_selects(rule)):
        yield Complaint(at, f"expected at least one of {', '.join(_SELECTORS)}, which select its callers")
    for name in ("group", "app", "object"):
        if (value := getattr(rule, name)) is not None and not GUID.fullmatch(value):
            yield Complaint(f"{at}.{name}", f"expected an id as a GUID, got {value!r}")
    if rule.app_role is not None and not _is_plain(rule.app_role):
        expected = "expected the value of an app role, such as Gateway.Call"
        yield Complaint(f"{at}.app_role", f"{expected}, got {rule.app_role!r}")
    if rule.product is not None and rule.product not in (products := configuration.products):
        known = ", ".join(sorted(products)) or "products, which is empty"
        yield Complaint(f"{at}.product", f"expected one of {known}, got {rule.product!r}")
    if rule.team is not None and rule.team not in (teams := configuration.team_limits):
        known = ", ".join(sorted(teams)) or "teams, which is empty"
        yield Complaint(f"{at}.team", f"expected one of {known}, got {rule.team!r}")
    if problem := time_zone_problem(rule.limits):
        yield Complaint(f"{at}.limits.time_zone", problem)
    places: dict[str, tuple[list[str] | None, Set[str]]] = {
        "models": (rule.models, {*configuration.model_names(), *configuration.aliases}),
        "regions": (rule.regions, configuration.regions),
        "data_zones": (rule.data_zones, configuration.data_zones),
    }
    for name, (given, configured) in places.items():
        if given is not None and not given:
            yield Complaint(f"{at}.{name}", "expected at least one; leave the key out to allow all")
        for j, one in enumerate(given or ()):
            if one not in configured:
                known = ", ".join(sorted(configured)) or "none, since no backend has one"
                yield Complaint(f"{at}.{name}[{j}]", f"expected one of {known}, got {one!r}")


def _selects(rule: document.CallerRule) -> tuple[str | None, ...]:
    return tuple(getattr(rule, name) for name in _SELECTORS)


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= 256 and text.isascii() and text.isprintable() and " " not in text
