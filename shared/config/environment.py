"""Reads the environment: the place of the configuration, storage account, keys and telemetry."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from shared.config.alerting import EVENTS, Receiver, url_problem
from shared.config.document import ApiKey, Configuration
from shared.config.parsing import parse
from shared.errors import Complaint, ConfigurationError

ROOT = Path(__file__).resolve().parents[2]

_MANAGEMENT_KEY = "GATEWAY_MANAGEMENT_KEY"
_SHORTEST_KEY = 32  # characters of the management key, so that it cannot be guessed
# App Service leaves a reference that it cannot resolve as it is: readers of the template would know the secret.
_UNRESOLVED = "@microsoft.keyvault("
_SECRETS = (  # variables that always hold one
    *(_MANAGEMENT_KEY, "GATEWAY_STORAGE", "AzureWebJobsStorage", "APPLICATIONINSIGHTS_CONNECTION_STRING"),
    *("OTEL_EXPORTER_OTLP_HEADERS", "AZURE_CLIENT_SECRET"),
)
_SIMULATOR = "GATEWAY_SIMULATOR"
_ON_THIS_MACHINE = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}")
_VARIABLE = re.compile(r"(?=.{1,64}$)[A-Za-z]+(_[A-Za-z0-9]{1,24})*")


class Storage(msgspec.Struct, frozen=True):
    """The storage account: a connection string, or the endpoint of its tables for an Entra identity."""

    connection_string: str | None = None
    table_service_uri: str | None = None
    client_id: str | None = None

    def __repr__(self) -> str:  # the connection string has the account's key
        return f"Storage({self.table_service_uri or 'connection string'})"


class TelemetrySettings(msgspec.Struct, frozen=True):
    """Destinations of telemetry: Application Insights, an OTLP collector (whose exporter reads its own variables), or
    both. `metrics_every` in seconds."""

    connection_string: str | None = None
    otlp: bool = False
    metrics_every: float = 60.0


class Settings(msgspec.Struct, frozen=True):
    """All settings of the process. `api_keys`: name of the backend -> its key. `simulator`: the URL of the control
    endpoint, if the backends are simulated."""

    configuration: Configuration
    storage: Storage
    api_keys: dict[str, str] = {}
    management_key: str | None = None
    client_id: str | None = None
    telemetry: TelemetrySettings | None = None
    receivers: tuple[Receiver, ...] = ()
    simulator: str | None = None

    def __repr__(self) -> str:
        return f"Settings({len(self.configuration.backends)} backends, {self.storage!r})"


class Source(msgspec.Struct, frozen=True):
    """The place of the base document, with its name in complaints: the text itself, a file, or a blob's URL."""

    name: str
    text: str | None = None
    path: Path | None = None
    url: str | None = None

    def read(self) -> str:
        """The text, unless it is a blob's. Raises `ConfigurationError`."""
        if self.path is None:
            return self.text or ""
        try:
            return self.path.read_text("utf-8")
        except OSError as error:
            problem = (
                f"cannot be read ({error.strerror}); set GATEWAY_CONFIG to the path of a configuration file, to the "
                "URL of a blob or to a JSON document, or copy gateway.sample.yaml to gateway.yaml"
            )
            raise ConfigurationError(Complaint("", problem, self.name)) from None
        except UnicodeDecodeError:
            raise ConfigurationError(Complaint("", "is not UTF-8 text", self.name)) from None


def source(environ: Mapping[str, str] = os.environ) -> Source:
    """The place that `GATEWAY_CONFIG` names."""
    variable = environ.get("GATEWAY_CONFIG") or ""
    if variable.lstrip().startswith("{") or "\n" in variable:
        return Source("GATEWAY_CONFIG", text=variable)
    if re.match(r"https?://", variable):
        return Source(variable.partition("?")[0], url=variable)
    path = Path(variable or "gateway.yaml")
    if not variable or not path.exists():
        path = ROOT / path  # Azure Functions reads it before it changes to the app's folder
    return Source(str(path), path=path.absolute())


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this process from a base document that is not a blob, without versions. Raises
    `ConfigurationError` with all complaints, one per line."""
    place = source(environ)
    return settings(parse(place.read(), place.name), place.name, environ)


def settings(configuration: Configuration, source: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process with a configuration; `source` is its name in complaints. Raises
    `ConfigurationError` with all complaints about the environment."""
    keys = {b.name: (i, b.auth.api_key_env) for i, b in enumerate(configuration.backends) if isinstance(b.auth, ApiKey)}
    missing = [
        Complaint(
            f"backends[{i}].auth.api_key_env",
            "expected the name of an environment variable that holds a key, "
            f"but {_safe_name(variable)} is not set, or has spaces or unprintable characters",
            source,
        )
        for i, variable in keys.values()
        if not _is_sendable(environ.get(variable, ""))
    ]
    alert_receivers, problems, named = receivers(configuration, environ)
    missing += [problem._replace(source=source) for problem in problems]
    missing += _unusable_secrets(environ, [*(variable for _, variable in keys.values()), *named])
    telemetry, problem = _telemetry(environ)
    if problem is not None:
        missing.append(problem)
    simulator = environ.get(_SIMULATOR) or None
    if simulator and not _ON_THIS_MACHINE.fullmatch(simulator):
        expected = (
            "expected the address of a simulator on this machine, such as http://127.0.0.1:8080; `make run` sets it"
        )
        missing.append(Complaint(_SIMULATOR, expected))
    if missing:
        raise ConfigurationError(*missing)
    return Settings(
        configuration=configuration,
        storage=load_storage(environ),
        api_keys={name: environ[variable] for name, (_, variable) in keys.items()},
        management_key=management_key(environ),
        client_id=environ.get("AZURE_CLIENT_ID") or None,
        telemetry=telemetry,
        receivers=alert_receivers,
        simulator=simulator,
    )


def receivers(
    configuration: Configuration, environ: Mapping[str, str]
) -> tuple[tuple[Receiver, ...], list[Complaint], list[str]]:
    """The receivers of alerts with their secrets; the complaints about variables that they name; these variables."""
    resolved, problems, named = list[Receiver](), list[Complaint](), list[str]()

    def read(at: str, variable: str | None) -> str:
        if variable is None:
            return ""
        named.append(variable)
        value = environ.get(variable) or ""
        if not value:
            expected = f"expected the name of an environment variable that is set, but {_safe_name(variable)} is not"
            problems.append(Complaint(at, expected))
        return value

    if (webhook := configuration.limits.webhook) is not None:
        secret = read("limits.webhook.secret_env", webhook.secret_env)
        resolved.append(Receiver("generic", webhook.url, secret, frozenset(("quota_reached",)), "limits.webhook"))
    for i, one in enumerate(configuration.alerts.webhooks):
        at = f"alerts.webhooks[{i}]"
        secret, url = read(f"{at}.secret_env", one.secret_env), one.url or read(f"{at}.url_env", one.url_env)
        if one.url_env and url and not _is_unresolved(url) and (problem := url_problem(url)):
            expected = f"expected https://HOST/PATH in {_safe_name(one.url_env)} ({problem})"
            problems.append(Complaint(f"{at}.url_env", expected))
        resolved.append(Receiver(one.kind, url, secret, frozenset(one.events or EVENTS), at))
    return tuple(resolved), problems, named


def without_secrets(configuration: Configuration, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a command that calls no backend."""
    return Settings(configuration, load_storage(environ), client_id=environ.get("AZURE_CLIENT_ID") or None)


def management_key(environ: Mapping[str, str]) -> str | None:
    """The management key; None if there is none that can be used."""
    key = environ.get(_MANAGEMENT_KEY, "")
    return key if len(key) >= _SHORTEST_KEY and not _is_unresolved(key) else None


def _unusable_secrets(environ: Mapping[str, str], names: Iterable[str]) -> list[Complaint]:
    """The complaints about secrets that are set. `names`: the variables that the configuration names."""
    complaints = [
        Complaint(
            _safe_name(name),
            "expected a secret, got a reference to a Key Vault that was not resolved: check that the secret exists and "
            "that the app's identity may read it",
        )
        for name in dict.fromkeys((*_SECRETS, *names))
        if _is_unresolved(environ.get(name, ""))
    ]
    key = environ.get(_MANAGEMENT_KEY, "")
    if key and not _is_unresolved(key) and len(key) < _SHORTEST_KEY:
        problem = f"expected at least {_SHORTEST_KEY} characters, got {len(key)}; openssl rand -base64 32 makes one"
        complaints.append(Complaint(_MANAGEMENT_KEY, problem))
    return complaints


def _is_unresolved(value: str) -> bool:
    return value.strip().lower().startswith(_UNRESOLVED)


def _safe_name(name: str) -> str:
    """The name of a variable as complaints show it: not if it may be the secret itself, put where the name belongs."""
    return name if _VARIABLE.fullmatch(name) else "the given one (not shown, because it looks like a secret)"


def _telemetry(environ: Mapping[str, str]) -> tuple[TelemetrySettings | None, Complaint | None]:
    """The destinations of telemetry, None without any; and the complaint about them."""
    connection_string = environ.get("APPLICATIONINSIGHTS_CONNECTION_STRING") or None
    otlp = bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (connection_string or otlp):
        return None, None
    if connection_string and not re.search(r"(?i)InstrumentationKey=[0-9a-f-]{36}(;|$)", connection_string):
        expected = "InstrumentationKey=GUID;IngestionEndpoint=https://…, as the Application Insights component shows it"
        return None, Complaint("APPLICATIONINSIGHTS_CONNECTION_STRING", f"expected {expected}")
    protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if otlp and protocol != "http/protobuf":
        return None, Complaint("OTEL_EXPORTER_OTLP_PROTOCOL", f"expected http/protobuf, got {protocol!r}")
    interval = environ.get("OTEL_METRIC_EXPORT_INTERVAL") or "60000"
    if not interval.isdecimal() or not 1000 <= int(interval) <= 3_600_000:
        problem = f"expected milliseconds from 1000 to 3600000, got {interval!r}"
        return None, Complaint("OTEL_METRIC_EXPORT_INTERVAL", problem)
    return TelemetrySettings(connection_string, otlp, int(interval) / 1000), None


def load_storage(environ: Mapping[str, str] = os.environ) -> Storage:
    """Read the storage account: `GATEWAY_STORAGE`, or else the account of the Functions host, in the same forms."""
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


def _is_sendable(key: str) -> bool:
    """True if a header can hold the key. A line feed at its end, as in a file, would fail every call."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key
