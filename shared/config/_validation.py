"""Checks of the configuration document that go beyond its schema."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.config import _backends, _entra, alerting, document, masking
from shared.config._backends import NAME, NAMES, is_model_name
from shared.config._entra import GUID
from shared.config._expected import SOME, expect
from shared.config._urls import endpoint_problem, redacted, url_problem
from shared.config.callers import Bounds
from shared.config.days import is_day
from shared.config.limits import AddressLimits, Limits, time_zone_problem
from shared.errors import Complaint

HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+")
HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?")


def complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    """All complaints about a document that fits the schema."""
    yield from expect(configuration.backends, "backends", "at least one backend")
    names: dict[str, int] = {}
    for i, backend in enumerate(configuration.backends):
        at = f"backends[{i}]"
        if backend.name in names:
            yield Complaint(
                f"{at}.name", f"expected a unique name, but backends[{names[backend.name]}] is also {backend.name!r}"
            )
        names.setdefault(backend.name, i)
        yield from _backends.complaints(backend, at)
    checks = (
        *(_model_complaints, _switch_complaints, _price_complaints, _limits_complaints, _product_complaints),
        *(_team_complaints, _ledger_complaints, _allowed_complaints),
    )
    for check in checks:
        yield from check(configuration)
    yield from alerting.complaints(configuration.alerts)
    yield from _entra.complaints(configuration)
    for i, origin in enumerate(configuration.cors.origins):
        form = "an origin such as https://app.contoso.com, or *"
        yield from expect(origin == "*" or ORIGIN.fullmatch(origin), f"cors.origins[{i}]", form, origin)
    for i, network in enumerate(configuration.allowed_networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            example = "expected a network such as 10.0.0.0/8 or 2001:db8::/32"
            yield Complaint(f"allowed_networks[{i}]", f"{example}, got {network[:80]!r} ({error})"[:300])
    retry = configuration.retry
    if retry.max_interval is not None and retry.max_interval < retry.interval:
        problem = f"expected at least the interval of {retry.interval:g} s, got {retry.max_interval:g}"
        yield Complaint("retry.max_interval", problem)
    if 0 < (seconds := configuration.heartbeat_seconds) < 0.05:
        yield Complaint("heartbeat_seconds", f"expected 0 (never) or at least 0.05, got {seconds:g}")


def _allowed_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    hosts = {f"hosts[{i}]": host for i, host in enumerate(configuration.allowed.hosts)}
    hosts |= {f"api_keys.{variable}": host for variable, host in configuration.allowed.api_keys.items()}
    for at, host in hosts.items():
        expected = f"HOST or HOST:PORT, got {redacted('https://' + host)}"
        yield from expect(HOST.fullmatch(host), f"allowed.{at}", expected)


def _ledger_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    ledger = configuration.ledger
    path, size = ledger.overflow_directory, ledger.overflow_bytes
    yield from expect(path is None or Path(path).is_absolute(), "ledger.overflow_directory", "an absolute path", path)
    fits = size == 0 or size >= 1_000_000
    yield from expect(fits, "ledger.overflow_bytes", "0 (none) or at least 1000000 bytes", size)
    yield from expect(ledger.keep_months != 1, "ledger.keep_months", "0 (forever) or at least 2 months", 1)


def _limits_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    settings, client = configuration.limits, configuration.client_address
    placed: dict[str, Limits | AddressLimits] = {"limits.defaults": settings.defaults}
    placed["limits.addresses"] = settings.addresses
    placed["limits.users"] = settings.users
    placed |= {f"limits.teams.{name}": limits for name, limits in settings.teams.items()}
    placed |= {f"models.{name}.limits": model.limits for name, model in configuration.models.items() if model.limits}
    for at, limits in placed.items():
        if problem := time_zone_problem(limits):
            yield Complaint(f"{at}.time_zone", problem)
    for key, header in (
        ("client_address.header", client.header),
        ("end_users.header", configuration.end_users.header),
        ("limits.headers.remaining_tokens", settings.headers.remaining_tokens),
        ("limits.headers.consumed_tokens", settings.headers.consumed_tokens),
    ):
        fits: object = header is None or HEADER_NAME.fullmatch(header)
        yield from expect(fits, key, "the name of a header in letters, digits and '-'", header)
    url = settings.webhook.url if settings.webhook is not None else None
    if url is not None and (problem := masking.problem(url) or url_problem(url)):
        yield Complaint("limits.webhook.url", f"expected https://HOST/PATH, got {redacted(url)} ({problem})")
    contact = settings.contact
    fits = contact.strip() and contact.isprintable()
    yield from expect(fits, "limits.contact", "the contact for rejected callers", contact)


def _bounds_complaints(configuration: document.Configuration, at: str, bounds: Bounds) -> Iterator[Complaint]:
    for key, named, known, of in (
        ("models", bounds.models, configuration.callable_names, "a model of a backend, or an alias"),
        ("regions", bounds.regions, configuration.regions, "the region of a backend"),
        ("data_zones", bounds.data_zones, configuration.data_zones, "the data zone of a backend"),
    ):
        yield from expect(named is None or named, f"{at}.{key}", SOME)
        for value in sorted((named or frozenset()) - known):
            yield from expect(False, f"{at}.{key}", of, value)


def _product_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    for name, product in configuration.products.items():
        at = f"products.{name}"
        yield from expect(NAME.fullmatch(name), "products", f"names of {NAMES}", name)
        yield from _bounds_complaints(configuration, at, product)
        for key, limits in (("limits", product.limits), ("shared_limits", product.shared_limits)):
            if problem := time_zone_problem(limits):
                yield Complaint(f"{at}.{key}.time_zone", problem)


def _team_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    for name, team in configuration.teams.items():
        yield from expect(NAME.fullmatch(name), "teams", f"names of {NAMES}", name)
        if name in configuration.limits.teams:
            yield Complaint(f"teams.{name}", f"expected each team in one place, but limits.teams also has {name!r}")
        yield from _bounds_complaints(configuration, f"teams.{name}", team)
        if problem := time_zone_problem(team.limits):
            yield Complaint(f"teams.{name}.limits.time_zone", problem)
        for owner in sorted(team.owners):
            ids = "object ids of users or groups in Entra ID"
            yield from expect(GUID.fullmatch(owner), f"teams.{name}.owners", ids, owner)


def _price_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    export = configuration.export
    container, payer = export.container, export.billing_account
    fits: object = container is None or CONTAINER.fullmatch(container)
    yield from expect(fits, "export.container", "3 to 63 small letters, digits and single '-'", container)
    fits = payer.strip() and payer.isprintable()
    yield from expect(fits, "export.billing_account", "printable characters", payer)
    if problem := endpoint_problem(configuration.azure_monitor.replace("{region}", "region")):
        form = "https://{region}.metrics.monitor.azure.com"
        yield Complaint("azure_monitor", f"expected {form}, got {redacted(configuration.azure_monitor)} ({problem})")
    for i, line in enumerate(configuration.prices):
        if (complaint := line.problem()) is not None:
            yield Complaint(f"prices[{i}]", complaint)


def _model_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    served = set(configuration.model_names())
    aliases: dict[str, str] = {}
    form = "a name of at most 128 printable characters without spaces and '/'"
    for name, model in configuration.models.items():
        at = f"models.{name}"
        if name not in served and (model.replaced_by is None or not is_model_name(name)):
            yield Complaint(at, f"expected a model of a backend, but no backend has {name!r} under `models`")
        if model.format is not None and (other := _serving_otherwise(configuration, name, model.format)):
            yield Complaint(f"{at}.format", f"the backend {other!r} does not serve this format")
        named = {name}
        for i, fallback in enumerate(model.fallbacks):
            if fallback not in served:
                yield Complaint(f"{at}.fallbacks[{i}]", f"expected a model of a backend, got {fallback!r}")
            elif fallback in named:
                yield Complaint(f"{at}.fallbacks[{i}]", f"expected another model, got {fallback!r} again")
            elif not configuration.alike(name, fallback):
                yield Complaint(f"{at}.fallbacks[{i}]", f"expected a model of the same API, got {fallback!r}")
            named.add(fallback)
        for key, variant in (("canary", model.canary), ("shadow", model.shadow)):
            if variant is not None and (variant.model not in served or variant.model == name):
                yield Complaint(f"{at}.{key}.model", f"expected another model of a backend, got {variant.model!r}")
            elif variant is not None and not configuration.alike(name, variant.model):
                yield Complaint(f"{at}.{key}.model", f"expected a model of the same API, got {variant.model!r}")
        for i, alias in enumerate(model.aliases):
            yield from expect(is_model_name(alias), f"{at}.aliases[{i}]", form, alias)
            if alias in served:
                yield Complaint(f"{at}.aliases[{i}]", f"expected a new name, but {alias!r} is a model of a backend")
            elif alias in aliases:
                yield Complaint(
                    f"{at}.aliases[{i}]", f"expected a new name, but {alias!r} is an alias of {aliases[alias]} already"
                )
            aliases.setdefault(alias, name)


def _serving_otherwise(configuration: document.Configuration, name: str, form: document.Format) -> str:
    """A backend of the model that cannot take bodies of this API; "": there is none."""
    fitting = ("azure", form)
    return next((one.name for one in configuration.backends if name in one.models and one.api not in fitting), "")


def _switch_complaints(configuration: document.Configuration) -> Iterator[Complaint]:
    served, models = set(configuration.model_names()), configuration.models
    for name, model in models.items():
        at = f"models.{name}"
        yield from expect(is_day(model.retires), f"{at}.retires", "a date as 2027-02-01", model.retires)
        if (successor := model.replaced_by) is None:
            continue
        at += ".replaced_by"
        since = successor.since
        yield from expect(since and is_day(since), f"{at}.from", "a date as 2027-01-15", since)
        if successor.model not in served:
            yield Complaint(f"{at}.model", f"expected a model of a backend, got {successor.model!r}")
        elif name in served and not configuration.alike(name, successor.model):
            yield Complaint(f"{at}.model", f"expected a model of the same API, got {successor.model!r}")
    for circle in _cycles(models):
        chain = " -> ".join([*circle[:10], *(["…"] if len(circle) > 10 else []), circle[0]])
        for name in circle:
            yield Complaint(f"models.{name}.replaced_by.model", f"{chain} is a cycle")


def _cycles(models: Mapping[str, document.Model]) -> Iterator[list[str]]:
    """The models that replace one another in a circle. Each is visited once."""
    visited: set[str] = set()
    for first in models:
        path: dict[str, None] = {}
        name = first
        while name in models and name not in visited:
            visited.add(name)
            path[name] = None
            successor = models[name].replaced_by
            name = successor.model if successor is not None else ""
        if name in path:
            names = list(path)
            yield names[names.index(name) :]
