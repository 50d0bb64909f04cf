"""Reads the environment and the configuration document, once, and refuses what is wrong with the path of the key."""

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
import yaml

from shared.billing.prices import PriceLine, is_date
from shared.errors import ConfigurationError
from shared.types import AddressLimits, ApiKey, Backend, ClientAddress, FallbackReason, Limits

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
RESOURCE_ID = re.compile(
    r"/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[^/\s]+/providers/Microsoft\.CognitiveServices/accounts/[^/\s]+",
    re.IGNORECASE,
)
API_VERSION = re.compile(r"v1|\d{4}-\d{2}-\d{2}(-preview)?")


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of a model's calls, 0 to 1, that goes to another model as well or instead."""

    model: str
    share: float


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of a model beyond where it is deployed. `hedge`: a slow answer is asked for again elsewhere."""

    fallbacks: list[str] = []
    aliases: list[str] = []
    limits: Limits | None = None
    fallback_on: tuple[FallbackReason, ...] = ("unavailable", "context_window", "content_filter")
    hedge: bool = False
    canary: Variant | None = None
    shadow: Variant | None = None
    prompt_cache_affinity: bool = True


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts go, and the name of the environment variable that holds the secret they are signed with."""

    url: str
    secret_env: str


class Webhook(msgspec.Struct, frozen=True):
    """Where alerts go, with the secret itself."""

    url: str
    secret: str

    def __repr__(self) -> str:
        return f"Webhook({self.url!r})"


class TokenHeaders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of headers for those who come from API Management's `llm-token-limit`. None: not sent."""

    remaining_tokens: str | None = None
    consumed_tokens: str | None = None


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What everybody is held to. `defaults`: consumers without limits of their own; `teams`: the keys of each together;
    `addresses`: every client address, with and without a valid key.

    `contact` is whom a refused caller is told to ask; `webhook` is told of quotas that are nearly used.
    """

    defaults: Limits = Limits()
    teams: dict[str, Limits] = {}
    addresses: AddressLimits = AddressLimits()
    contact: str = "the gateway's operator"
    headers: TokenHeaders = TokenHeaders()
    webhook: WebhookSettings | None = None


class ExportSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where months of charges are written as FOCUS files. `container`: of the storage account that holds the state;
    None: nowhere. `billing_account`: who pays for the whole, in the operator's words."""

    container: str | None = None
    billing_account: str = "tollgate"


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In seconds. `total`: until an answer is complete, or a stream shows its first token; it stays below the 230 s
    after which Azure's front end cuts a silent connection. `stream`: until a stream has ended.
    `request_body`: until a request's body has come, and more at 16 kB/s for longer ones.

    `first_byte` None: by the kind of call (`deadlines.first_byte_timeout`).
    """

    connect: float = 2.0
    first_byte: float | None = None
    total: float = 220.0
    stream: float = 1800.0
    request_body: float = 60.0


Durability = Literal["committed", "deferred"]


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How surely usage rows are kept. `committed`: the last byte of an answer waits for its row; `deferred`: it does
    not, and a crash loses about a second's rows.

    `overflow_directory`: where rows wait on disk while the table is out of reach; None: in the temporary directory.
    `overflow_bytes`: at most; 0: never on disk. `keep_months`: raw rows of older months are dropped; 0: never.
    """

    durability: Durability = "committed"
    overflow_directory: str | None = None
    overflow_bytes: int = 256 * 1024 * 1024
    keep_months: int = 25


class Tracing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many traces a second each process keeps, and as many again of calls that went wrong. 0: none."""

    traces_per_second: float = 1.0


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration document, checked.

    `max_upload_bytes` bounds multipart bodies, which are relayed while they come; `max_request_bytes` all others.
    `heartbeat_seconds`: silence after which a stream gets a comment; 0: never. `adopt_unknown_ids`: ids that the
    gateway has not seen being made are looked for on the backends, and are then open to every key.
    """

    backends: list[Backend]
    models: dict[str, Model] = {}
    prices: list[PriceLine] = []
    export: ExportSettings = ExportSettings()
    azure_monitor: str = "https://{region}.metrics.monitor.azure.com"
    limits: LimitSettings = LimitSettings()
    client_address: ClientAddress = ClientAddress()
    timeouts: Timeouts = Timeouts()
    ledger: LedgerSettings = LedgerSettings()
    telemetry: Tracing = Tracing()
    max_request_bytes: int = 32 * 1024 * 1024
    max_upload_bytes: int = 1024 * 1024 * 1024
    heartbeat_seconds: float = 15.0
    adopt_unknown_ids: bool = False

    def model_names(self) -> list[str]:
        """Every model that a backend serves, in the order of the document."""
        return list(dict.fromkeys(model for backend in self.backends for model in backend.models))

    def canonical(self, model: str) -> str:
        """The model that an alias stands for; any other name is its own."""
        return next((name for name, about in self.models.items() if model in about.aliases), model)


class Storage(msgspec.Struct, frozen=True):
    """Where the tables are: a connection string, or an endpoint to be opened with a managed identity."""

    connection_string: str | None = None
    table_service_uri: str | None = None
    client_id: str | None = None

    def __repr__(self) -> str:  # a connection string holds the account's key
        return f"Storage({self.table_service_uri or 'connection string'})"


class TelemetrySettings(msgspec.Struct, frozen=True):
    """Where telemetry goes: to Application Insights, to a collector by OTLP (whose variables its exporters read
    themselves), or both. `metrics_every` in seconds."""

    connection_string: str | None = None
    otlp: bool = False
    metrics_every: float = 60.0


class Settings(msgspec.Struct, frozen=True):
    """Everything that the process was told from outside. `api_keys`: backend's name -> its key."""

    configuration: Configuration
    storage: Storage
    api_keys: dict[str, str] = {}
    management_key: str | None = None
    client_id: str | None = None
    telemetry: TelemetrySettings | None = None
    webhook: Webhook | None = None

    def __repr__(self) -> str:
        return f"Settings({len(self.configuration.backends)} backends, {self.storage!r})"


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises `ConfigurationError` with every complaint found, one a line."""
    source, document = _document(environ)
    configuration = parse(document, source)
    keys = {b.name: (i, b.auth.api_key_env) for i, b in enumerate(configuration.backends) if isinstance(b.auth, ApiKey)}
    missing = [
        f"{source}: backends[{i}].auth.api_key_env: expected the name of an environment variable that holds a key, "
        f"but {variable} is not set or holds more than printable characters without spaces"
        for i, variable in keys.values()
        if not _is_sendable(environ.get(variable, ""))
    ]
    webhook, secret = configuration.limits.webhook, ""
    if webhook is not None and not (secret := environ.get(webhook.secret_env) or ""):
        missing.append(
            f"{source}: limits.webhook.secret_env: expected the name of an environment variable that is set, "
            f"but {webhook.secret_env} is not"
        )
    telemetry, problem = _telemetry(environ)
    if problem:
        missing.append(problem)
    if missing:
        raise ConfigurationError("\n".join(missing))
    return Settings(
        configuration=configuration,
        storage=load_storage(environ),
        api_keys={name: environ[variable] for name, (_, variable) in keys.items()},
        management_key=environ.get("GATEWAY_MANAGEMENT_KEY") or None,
        client_id=environ.get("AZURE_CLIENT_ID") or None,
        telemetry=telemetry,
        webhook=Webhook(webhook.url, secret) if webhook is not None else None,
    )


def _telemetry(environ: Mapping[str, str]) -> tuple[TelemetrySettings | None, str]:
    """Where telemetry goes, None: nowhere; and what is wrong with that."""
    connection_string = environ.get("APPLICATIONINSIGHTS_CONNECTION_STRING") or None
    otlp = bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (connection_string or otlp):
        return None, ""
    if connection_string and not re.search(r"(?i)InstrumentationKey=[0-9a-f-]{36}(;|$)", connection_string):
        return None, (
            "APPLICATIONINSIGHTS_CONNECTION_STRING: expected InstrumentationKey=GUID;IngestionEndpoint=https://…, "
            "as the Application Insights component shows it"
        )
    protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if otlp and protocol != "http/protobuf":
        return (
            None,
            f"OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf, the one that is spoken here, got {protocol!r}",
        )
    interval = environ.get("OTEL_METRIC_EXPORT_INTERVAL") or "60000"
    if not interval.isdecimal() or not 1000 <= int(interval) <= 3_600_000:
        return None, f"OTEL_METRIC_EXPORT_INTERVAL: expected milliseconds from 1000 to 3600000, got {interval!r}"
    return TelemetrySettings(connection_string, otlp, int(interval) / 1000), ""


def load_storage(environ: Mapping[str, str] = os.environ) -> Storage:
    """Where the state is kept: `GATEWAY_STORAGE`, else the account of the Functions host, in the same forms."""
    for name in ("GATEWAY_STORAGE", "AzureWebJobsStorage"):
        client_id = environ.get(f"{name}__clientId") or environ.get("AZURE_CLIENT_ID") or None
        if uri := environ.get(f"{name}__tableServiceUri"):
            return Storage(table_service_uri=uri, client_id=client_id)
        if account := environ.get(f"{name}__accountName"):
            return Storage(table_service_uri=f"https://{account}.table.core.windows.net", client_id=client_id)
        if text := environ.get(name):
            return Storage(connection_string=text)
    raise ConfigurationError(
        "GATEWAY_STORAGE: expected the connection string of a storage account (UseDevelopmentStorage=true is a local "
        "Azurite), or GATEWAY_STORAGE__tableServiceUri for access with a managed identity; neither is set"
    )


def parse(document: str, source: str) -> Configuration:
    """The configuration in a YAML or JSON text; `source` names it in complaints."""
    try:
        data = _read(document)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: is neither YAML nor JSON: {_where(error)}") from None
    except RecursionError:
        raise ConfigurationError(f"{source}: is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: has a value that cannot be read: {error}") from None
    try:
        configuration = msgspec.convert(data, Configuration)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise ConfigurationError(
            f"{source}: {path.rstrip('`').removeprefix('$').lstrip('.') or 'document'}: {message}"
        ) from None
    if complaints := [f"{source}: {complaint}" for complaint in _complaints(configuration)]:
        raise ConfigurationError("\n".join(complaints))
    return configuration


def _is_sendable(key: str) -> bool:
    """Whether a key can stand in a header: a line feed at its end, as files have it, would fail every call."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def _document(environ: Mapping[str, str]) -> tuple[str, str]:
    given = environ.get("GATEWAY_CONFIG") or ""
    if given.lstrip().startswith("{") or "\n" in given:
        return "GATEWAY_CONFIG", given
    path = Path(given) if given else ROOT / "gateway.yaml"
    try:
        return str(path), path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); set GATEWAY_CONFIG to the path of a configuration file or to "
            "a JSON document, or copy gateway.sample.yaml to gateway.yaml"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None


def _read(document: str) -> object:
    """JSON as JSON, since YAML knows no tabs; anything else as YAML."""
    if document.lstrip().startswith("{"):
        try:
            return json.loads(document, object_pairs_hook=_without_doubles)
        except json.JSONDecodeError:
            pass  # YAML in braces, or wrong as both
    return yaml.load(document, _Loader)  # noqa: S506 — a safe loader that also refuses keys given twice


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", None)
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """YAML without its silent last-one-wins for a key given twice, and without dates: 2024-10-21 is an API version."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own name and shape
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        self.flatten_mapping(node)
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or error}"


def _complaints(configuration: Configuration) -> Iterator[str]:
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


def limit_complaints(limits: Limits | AddressLimits) -> Iterator[str]:
    """What is wrong with some limits, each with the name of the field first."""
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= 1e15:
            yield f"{name}: expected 0 (no limit) or more, at most 1e15, got {value}"
    try:
        ZoneInfo(limits.time_zone or "UTC")
    except (ValueError, OSError, KeyError):
        yield f"time_zone: expected the name of a time zone such as Europe/Berlin, got {limits.time_zone!r}"


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
