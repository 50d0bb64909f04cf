"""Reads the environment and the configuration document, once, and refuses what is wrong with the path of the key."""

import functools
from collections.abc import Iterator
from datetime import date
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

Deployment = Literal["global", "data_zone", "regional"]
Tier = Literal["standard", "batch", "priority", "flex"]


class PriceLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"since": "from"}):
    """One price, as the table and the configuration hold it: USD per million tokens or characters, per second of sound,
    per image, per hour of a provisioned throughput unit.

    Of several that fit a call, the one that says most of it counts: region before kind of deployment, then the latest
    `from` (YYYY-MM-DD, UTC). None of `deployment`, no `regions`: any.
    """

    model: str = ""
    deployment: Deployment | None = None
    regions: list[str] = []
    tier: Tier = "standard"
    context: Literal["short", "long"] = "short"
    since: str = ""
    input: float | None = None
    cached_input: float | None = None
    output: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float | None = None
    image: float | None = None
    second: float | None = None
    character: float | None = None
    unit_hour: float | None = None

    def problem(self) -> str | None:
        """What is wrong with this line, if anything is."""
        amounts = {name: getattr(self, name) for name in AMOUNTS}
        given = {name for name, amount in amounts.items() if amount is not None}
        if bad := next((name for name in given if not 0 <= amounts[name] <= 1e6), None):
            return f"{bad}: expected 0 to 1e6 USD, got {amounts[bad]}"
        if not given:
            return f"expected at least one of {', '.join(AMOUNTS)}"
        if bool(self.model) == ("unit_hour" in given) or ("unit_hour" in given and len(given) > 1):
            return "expected either a model with its prices, or unit_hour alone and no model"
        return None if is_date(self.since) else f"from: expected a date as 2026-08-01, got {self.since!r}"


AMOUNTS = PriceLine.__struct_fields__[6:]


def is_date(since: str) -> bool:
    """Whether this is a day, or nothing at all, which means always."""
    try:
        return since_seconds(since) >= 0
    except ValueError:
        return False


@functools.cache
def since_seconds(since: str) -> int:
    """The beginning of that day; YYYY-MM-DD alone, of the forms that ISO 8601 has."""
    if len(since) not in (0, 10) or "W" in since:
        raise ValueError(since)
    return (date.fromisoformat(since) - date(1970, 1, 1)).days * 86_400 if since else 0


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend's key, by the name of the environment variable that holds it: the configuration holds no secret."""

    api_key_env: str


class ProvisionedCapacity(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"since": "from"}
):
    """Provisioned throughput units of a model's deployment, from the beginning of a day in UTC (YYYY-MM-DD) until the
    next entry of that model. `usd_per_unit_hour` None: Azure's price without a reservation."""

    model: str
    units: int
    since: str
    usd_per_unit_hour: float | None = None


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An Azure OpenAI resource that may be called. `models` maps the name a caller uses to Azure's deployment.
    `tokens_per_minute`: the quota of a model's deployment, where what Azure tells of it is not to be trusted.
    `deployment` and `capacity` are what its prices depend on, nothing else; `resource_id` is Azure's name for it, under
    which Azure Monitor knows it."""

    name: str
    endpoint: str
    region: str
    models: dict[str, str]
    data_zone: str | None = None
    auth: Literal["managed_identity"] | ApiKey = "managed_identity"
    token_scope: str | None = None
    api_version: str = "v1"
    kind: Literal["standard", "provisioned"] = "standard"
    deployment: Deployment = "global"
    capacity: list[ProvisionedCapacity] = []
    resource_id: str | None = None
    priority: int = 1
    weight: int = 1
    tokens_per_minute: dict[str, int] = {}


Period = Literal["hour", "day", "week", "month"]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """What a consumer, a team, an address or a model may use. None: what the configuration says; 0: no limit.

    Periods begin by the clocks of `time_zone` (UTC). `soft`: what exceeds a limit is told, not refused. `estimate`:
    what is reserved for an answer's tokens, all that the call allows (`max`) or what such calls took (`learned`).
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    token_quota: int | None = None
    token_quota_period: Period | None = None
    request_quota: int | None = None
    request_quota_period: Period | None = None
    budget_usd: float | None = None
    budget_period: Period | None = None
    max_concurrent: int | None = None
    time_zone: str | None = None
    soft: bool | None = None
    estimate: Literal["max", "learned"] | None = None


class AddressLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may come from one client address, whatever key is sent. None or 0: no limit."""

    requests_per_minute: int | None = None
    request_quota: int | None = None
    request_quota_period: Period = "day"
    time_zone: str = "UTC"


class ClientAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is believed about a caller's address. `header` None: the server that listens. Else the proxy that wrote the
    entry of this header at `hops` from its end: so many proxies of the operator's own have each added one."""

    header: str | None = None
    hops: int = 1


FallbackReason = Literal["unavailable", "context_window", "content_filter"]


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
    stream: float = 1500.0
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
