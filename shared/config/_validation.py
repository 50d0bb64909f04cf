"""Checks of the configuration document that go beyond its schema."""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from shared.config.document import (
    Backend,
    Configuration,
    LedgerSettings,
    is_date,
    limit_complaints,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")


RESOURCE_ID = re.compile(
    r"/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[^/\s]+/providers/Microsoft\.CognitiveServices/accounts/[^/\s]+",
    re.IGNORECASE,
)


API_VERSION = re.compile(r"v1|\d{4}-\d{2}-\d{2}(-preview)?")


def complaints(configuration: Configuration) -> Iterator[str]:
    if not configuration.backends:
        yield "backends: expected at least one backend"
    names: dict[str, int] = {}
    for i, backend in enumerate(configuration.backends):
        at = f"backends[{i}]"
        if backend.name in names:
            yield f"{at}.name: expected a name of its own, but backends[{names[backend.name]}] is {backend.name!r}, too"
        names.setdefault(backend.name, i)
        yield from _backend_complaints(backend, at)
    yield from _model_complaints(configuration)
    yield from _price_complaints(configuration)
    timeouts = configuration.timeouts
    for key, value, most in (
        ("connect", timeouts.connect, 60.0),
        ("first_byte", timeouts.first_byte, 220.0),
        ("total", timeouts.total, 220.0),
        ("stream", timeouts.stream, 86_400.0),
        ("request_body", timeouts.request_body, 600.0),
    ):
        if value is not None and not 0 < value <= most:
            yield f"timeouts.{key}: expected seconds above 0 and at most {most:g}, got {value:g}"
    yield from _limits_complaints(configuration)
    yield from _ledger_complaints(configuration.ledger)
    if not 0 <= configuration.telemetry.traces_per_second <= 1000:
        got = configuration.telemetry.traces_per_second
        yield f"telemetry.traces_per_second: expected 0 (none) to 1000, got {got:g}"
    if not 1024 <= configuration.max_request_bytes <= 104_857_600:
        yield f"max_request_bytes: expected 1024 to 104857600 bytes, got {configuration.max_request_bytes}"
    if not 1024 <= configuration.max_upload_bytes <= 2**40:
        yield f"max_upload_bytes: expected 1024 bytes to a terabyte, got {configuration.max_upload_bytes}"
    seconds = configuration.heartbeat_seconds
    if seconds != 0 and not 0.05 <= seconds <= 200:
        yield f"heartbeat_seconds: expected 0 (never) or seconds up to 200, got {seconds:g}"


def _ledger_complaints(ledger: LedgerSettings) -> Iterator[str]:
    if ledger.overflow_directory is not None and not Path(ledger.overflow_directory).is_absolute():
        yield f"ledger.overflow_directory: expected an absolute path, got {ledger.overflow_directory!r}"
    if ledger.overflow_bytes and not 1_000_000 <= ledger.overflow_bytes <= 10**12:
        yield f"ledger.overflow_bytes: expected 0 (none) or 1000000 to 1e12 bytes, got {ledger.overflow_bytes}"
    if not 0 <= ledger.keep_months <= 1200 or ledger.keep_months == 1:
        yield f"ledger.keep_months: expected 0 (for ever) or 2 to 1200 months, got {ledger.keep_months}"


def _limits_complaints(configuration: Configuration) -> Iterator[str]:
    settings = configuration.limits
    placed = {"limits.defaults": settings.defaults}
    placed |= {f"limits.teams.{name}": limits for name, limits in settings.teams.items()}
    placed |= {f"models.{name}.limits": about.limits for name, about in configuration.models.items() if about.limits}
    for at, limits in placed.items():
        for complaint in limit_complaints(limits):
            yield f"{at}.{complaint}"
    for complaint in limit_complaints(settings.addresses):
        yield f"limits.addresses.{complaint}"
    trusted = configuration.client_address
    if trusted.header is not None and not HEADER_NAME.fullmatch(trusted.header):
        yield f"client_address.header: expected the name of a header in letters, digits and '-', got {trusted.header!r}"
    if not 1 <= trusted.hops <= 10:
        yield f"client_address.hops: expected 1 to 10, got {trusted.hops}"
    for field, name in (
        ("remaining_tokens", settings.headers.remaining_tokens),
        ("consumed_tokens", settings.headers.consumed_tokens),
    ):
        if name is not None and not HEADER_NAME.fullmatch(name):
            yield f"limits.headers.{field}: expected the name of a header in letters, digits and '-', got {name!r}"
    if settings.webhook is not None and (problem := _webhook_problem(settings.webhook.url)):
        yield f"limits.webhook.url: expected https://HOST/PATH, got {settings.webhook.url!r} ({problem})"
    if not settings.contact.strip() or not settings.contact.isprintable():
        yield f"limits.contact: expected whom a refused caller may ask, got {settings.contact!r}"


def _price_complaints(configuration: Configuration) -> Iterator[str]:
    export = configuration.export
    if export.container is not None and not CONTAINER.fullmatch(export.container):
        yield f"export.container: expected 3 to 63 small letters, digits and single '-', got {export.container!r}"
    if not export.billing_account.strip() or not export.billing_account.isprintable():
        yield f"export.billing_account: expected printable characters, got {export.billing_account!r}"
    if problem := _endpoint_problem(configuration.azure_monitor.replace("{region}", "region")):
        form = "https://{region}.metrics.monitor.azure.com"
        yield f"azure_monitor: expected {form}, got {configuration.azure_monitor!r} ({problem})"
    for i, line in enumerate(configuration.prices):
        if problem := line.problem():
            yield f"prices[{i}]: {problem}"
    for i, backend in enumerate(configuration.backends):
        if backend.capacity and backend.kind != "provisioned":
            yield f"backends[{i}].capacity: expected only where kind is provisioned, which {backend.name!r} is not"
        for k, capacity in enumerate(backend.capacity):
            at = f"backends[{i}].capacity[{k}]"
            if capacity.model not in backend.models:
                yield f"{at}.model: expected a model of this backend, got {capacity.model!r}"
            if not 0 <= capacity.units <= 1_000_000:
                yield f"{at}.units: expected 0 to 1000000 provisioned throughput units, got {capacity.units}"
            if not 0 <= (capacity.usd_per_unit_hour or 0.0) <= 1000:
                yield f"{at}.usd_per_unit_hour: expected 0 to 1000, got {capacity.usd_per_unit_hour}"
            if not capacity.since or not is_date(capacity.since):
                yield f"{at}.from: expected a date as 2026-08-01, got {capacity.since!r}"


def _webhook_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not host:
        return "not a URL with a host"
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        return "not a host's name"
    if parts.scheme == "http" and not _is_near(host):
        return "plain http is for this machine, and for names without a dot"
    return None


def _backend_complaints(backend: Backend, at: str) -> Iterator[str]:
    if not NAME.fullmatch(backend.name):
        yield f"{at}.name: expected letters, digits, '.', '_' or '-', 64 at most, got {backend.name!r}"
    if not backend.region or not backend.region.isascii() or not backend.region.isprintable():
        yield f"{at}.region: expected the name of an Azure region such as swedencentral, got {backend.region!r}"
    if problem := _endpoint_problem(backend.endpoint):
        yield f"{at}.endpoint: expected https://NAME.openai.azure.com, got {backend.endpoint!r} ({problem})"
    if not API_VERSION.fullmatch(backend.api_version):
        yield f"{at}.api_version: expected v1 or a dated version such as 2024-10-21, got {backend.api_version!r}"
    if backend.resource_id is not None and not RESOURCE_ID.fullmatch(backend.resource_id):
        form = "/subscriptions/…/resourceGroups/…/providers/Microsoft.CognitiveServices/accounts/NAME"
        yield f"{at}.resource_id: expected {form}, got {backend.resource_id!r}"
    if not 1 <= backend.weight <= 100:
        yield f"{at}.weight: expected 1 to 100, got {backend.weight}"
    if not 0 <= backend.priority <= 100:
        yield f"{at}.priority: expected 0 to 100, got {backend.priority}"
    if not backend.models:
        yield f"{at}.models: expected at least one model with its deployment"
    for model, tokens in backend.tokens_per_minute.items():
        if model not in backend.models or tokens < 1:
            yield f"{at}.tokens_per_minute.{model}: expected 1 or more for a model of this backend, got {tokens}"
    for model, deployment in backend.models.items():
        if not _is_model_name(model):
            yield f"{at}.models: expected names of 1 to 128 printable characters without spaces and '/', got {model!r}"
        if not NAME.fullmatch(deployment):
            yield f"{at}.models.{model}: expected the name of a deployment, got {deployment!r}"


def _is_model_name(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isascii() and name.isprintable() and not set(name) & set(" /\\#?%|'\"")


def _endpoint_problem(endpoint: str) -> str | None:
    """A bearer token must not travel in clear: plain http is for this machine and for names without a dot (compose)."""
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not host:
        return "not a URL with a host"
    if parts.username or parts.password or parts.query or parts.fragment or parts.path not in ("", "/"):
        return "only scheme, host and port may stand there"
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        return "not a host's name"
    if parts.scheme == "http" and not _is_near(host):
        return "plain http is for this machine, and for names without a dot"
    return None


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def _model_complaints(configuration: Configuration) -> Iterator[str]:
    served = set(configuration.model_names())
    aliases: dict[str, str] = {}
    for model, about in configuration.models.items():
        if model not in served:
            yield f"models.{model}: expected a model that a backend serves; none has {model!r} under `models`"
        for i, fallback in enumerate(about.fallbacks):
            if fallback not in served:
                yield f"models.{model}.fallbacks[{i}]: expected a model that a backend serves, got {fallback!r}"
            elif fallback == model or fallback in about.fallbacks[:i]:
                yield f"models.{model}.fallbacks[{i}]: expected another model each, got {fallback!r} again"
        for name, variant in (("canary", about.canary), ("shadow", about.shadow)):
            if variant is None:
                continue
            at = f"models.{model}.{name}"
            if variant.model not in served or variant.model == model:
                yield f"{at}.model: expected another model that a backend serves, got {variant.model!r}"
            if not 0 < variant.share <= 1:
                yield f"{at}.share: expected more than 0, at most 1, got {variant.share:g}"
        for i, alias in enumerate(about.aliases):
            at = f"models.{model}.aliases[{i}]"
            if not _is_model_name(alias):
                yield f"{at}: expected a name of at most 128 printable characters without spaces and '/', got {alias!r}"
            if alias in served:
                yield f"{at}: expected a new name, but {alias!r} is a model that a backend serves"
            elif alias in aliases:
                yield f"{at}: expected a new name, but {alias!r} is an alias of {aliases[alias]} already"
            aliases.setdefault(alias, model)
