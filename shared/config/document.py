"""Schema of the configuration document, with its defaults and the ranges of its numbers."""

import functools
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.config.alerting import AlertSettings
from shared.config.callers import EndUsers, EntraSettings, Product, Team
from shared.config.days import since_seconds
from shared.config.limits import Limits, LimitSettings
from shared.config.prices import Deployment, DeploymentType, PriceLine


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of the environment variable that holds a backend's key: the configuration holds no secret."""

    api_key_env: str


class ProvisionedCapacity(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"since": "from"}
):
    """Provisioned throughput units of a model's deployment, from the beginning of a day in UTC (YYYY-MM-DD) until the
    next entry of that model. `usd_per_unit_hour` None: Azure's price without a reservation."""

    model: str
    units: Annotated[int, Meta(ge=0, le=1_000_000)]
    since: str
    usd_per_unit_hour: Annotated[float, Meta(ge=0, le=1000)] | None = None


BackendKind = Literal["standard", "provisioned", "openai", "anthropic"]
Api = Literal["azure", "openai", "anthropic"]
"""An API that backends speak: `azure_openai/apis.py` has a row for each, `credentials.py` the header of its key."""


class DeployedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The deployment of a model in one backend. `type` None: that of the backend."""

    deployment: str
    type: DeploymentType | None = None


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """An Azure OpenAI resource, or OpenAI or Anthropic itself. `models` maps the name a caller uses to Azure's
    deployment, or to the vendor's name of the model. `tokens_per_minute` overrides the quota that the backend reports
    for a model's deployment; backends of one `quota_group` have one quota for each of their models. `deployment`: the
    type of all deployments that do not state theirs. `capacity` affects prices only. `resource_id` identifies the
    resource in Azure Monitor. `region` may be left out only where the API has none: it is the name of that API then."""

    name: str
    endpoint: str
    region: str = ""
    models: Mapping[str, str | DeployedModel]
    data_zone: str | None = None
    auth: Literal["managed_identity"] | ApiKey = "managed_identity"
    token_scope: str | None = None
    api_version: str = "v1"
    kind: BackendKind = "standard"
    deployment: DeploymentType | None = None
    capacity: list[ProvisionedCapacity] = []
    resource_id: str | None = None
    priority: Annotated[int, Meta(ge=0, le=100)] = 1
    weight: Annotated[int, Meta(ge=1, le=100)] = 1
    tokens_per_minute: dict[str, Annotated[int, Meta(ge=1)]] = {}
    quota_group: str = ""

    def __post_init__(self) -> None:
        if not self.region and self.api != "azure":
            msgspec.structs.force_setattr(self, "region", self.api)

    @property
    def api(self) -> Api:
        return self.kind if self.kind == "openai" or self.kind == "anthropic" else "azure"

    @property
    def provisioned(self) -> bool:
        """True for throughput that is paid by the hour, used or not."""
        return self.kind == "provisioned"

    @functools.cached_property
    def deployments(self) -> dict[str, str]:
        """Model -> its deployment."""
        return {name: one if isinstance(one, str) else one.deployment for name, one in self.models.items()}

    @functools.cached_property
    def by_deployment(self) -> dict[str, str]:
        """Deployment -> its model; the last one, if several models share it."""
        return {deployment: name for name, deployment in self.deployments.items()}

    def type_of(self, model: str) -> DeploymentType | None:
        """The type of a model's deployment; None: the document does not state it. OpenAI processes calls anywhere."""
        if self.api != "azure":
            return "global"
        one = self.models.get(model)
        return (one.type if isinstance(one, DeployedModel) else None) or self.deployment

    def priced_as(self, model: str) -> Deployment:
        """The price that holds for a model: that of Azure's global deployments, if the document states no type."""
        return "openai" if self.api == "openai" else self.type_of(model) or "global"


class ClientAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of a caller's address. `header` None: the connection. Otherwise the entry of this header at `hops`
    from its end, where `hops` is the number of the operator's proxies, each of which appends one."""

    header: str | None = None
    hops: Annotated[int, Meta(ge=1, le=10)] = 1


class CorsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The origins whose pages may call the gateway from a browser; `*`: any. Empty: none."""

    origins: list[str] = []


Format = Literal["openai", "anthropic"]
"""The API by whose bodies a model is called."""

FallbackReason = Literal["unavailable", "context_window", "content_filter"]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of a model's calls, 0 to 1, that is sent to another model, too or instead."""

    model: str
    share: Annotated[float, Meta(gt=0, le=1)]


class Successor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """The model that gets all calls to another one from the beginning of a day in UTC (YYYY-MM-DD)."""

    model: str
    since: str


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a model on all its backends. `hedge`: a slow call is sent to a second backend. `first_byte`:
    seconds from the start of a try to its first content; None: as in `timeouts`. `tier_fallback`: a call of the
    tier `flex` or `priority` goes to the standard tier if its own cannot serve it. `completions_as_chat`: calls of
    legacy completions are sent to it as chats. `retires`: the day of its end (YYYY-MM-DD), instead of the one that
    Azure has published; "": that one. `format` None: Anthropic's for a name with `claude` in it."""

    fallbacks: list[str] = []
    aliases: list[str] = []
    limits: Limits | None = None
    fallback_on: tuple[FallbackReason, ...] = ("unavailable", "context_window", "content_filter")
    hedge: bool = False
    canary: Variant | None = None
    shadow: Variant | None = None
    prompt_cache_affinity: bool = True
    first_byte: Annotated[float, Meta(gt=0, le=1500)] | None = None
    tier_fallback: bool = False
    completions_as_chat: bool = False
    retires: str = ""
    replaced_by: Successor | None = None
    format: Format | None = None


class ExportSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The export of monthly charges as FOCUS files. `container`: in the storage account that holds the state; None: no
    export. `billing_account`: the payer's name in the files."""

    container: str | None = None
    billing_account: str = "tollgate"


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In seconds. `total`: until an answer is complete, or a stream without heartbeats has its first token; below the
    230 s after which Azure's front end cuts a silent connection. `stream`: until a stream has ended.
    `request_body`: until a request's body has arrived; longer for large ones, at 16 kB/s.

    `first_byte` None: depends on the kind of call (`forwarding/_timeouts.py`). `socket`: the longest time of a
    WebSocket; `socket_idle`: silence of both sides after which it ends, if no response is under way.
    """

    connect: Annotated[float, Meta(gt=0, le=60)] = 2.0
    first_byte: Annotated[float, Meta(gt=0, le=220)] | None = None
    total: Annotated[float, Meta(gt=0, le=220)] = 220.0
    stream: Annotated[float, Meta(gt=0, le=86_400)] = 1500.0
    request_body: Annotated[float, Meta(gt=0, le=600)] = 60.0
    socket: Annotated[float, Meta(gt=0, le=86_400)] = 3600.0
    socket_idle: Annotated[float, Meta(gt=0, le=86_400)] = 600.0


class RetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Waits in seconds, after which a call that every backend has failed or throttled is tried again, `count` times.
    They grow from `interval` by `delta` each time, up to `max_interval` exponentially."""

    count: Annotated[int, Meta(ge=0, le=50)] = 0
    interval: Annotated[float, Meta(ge=0.1, le=120)] = 1.0
    delta: Annotated[float, Meta(ge=0, le=120)] = 0.0
    max_interval: Annotated[float, Meta(ge=0.1, le=120)] | None = None


Durability = Literal["committed", "recorded", "deferred"]


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durability of usage rows. `committed`: the last byte of an answer waits until its row is in the table;
    `recorded`: it waits until its row is on the local disk, so a crash of the process loses none; `deferred`: it does
    not wait, and a crash loses about a second of rows.

    `overflow_directory`: holds rows on disk until they are in the table; None: the temporary directory.
    `overflow_bytes`: its largest size; 0: nothing on disk. `keep_months`: age at which raw rows are dropped; 0: never.
    """

    durability: Durability = "committed"
    overflow_directory: str | None = None
    overflow_bytes: Annotated[int, Meta(ge=0, le=10**12)] = 256 * 1024 * 1024
    keep_months: Annotated[int, Meta(ge=0, le=1200)] = 25


class Tracing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Traces that each process keeps per second, and as many again of failed calls. 0: none."""

    traces_per_second: Annotated[float, Meta(ge=0, le=1000)] = 1.0


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names that versions of the configuration may use beside Azure's hosts and the names in the base document's
    backends. `hosts`: of endpoints, `HOST` or `HOST:PORT`. `api_keys`: the variable of a key -> the host that it is
    for."""

    hosts: list[str] = []
    api_keys: dict[str, str] = {}


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The configuration document. `allowed_networks`: those that may call the gateway; empty: any. `max_upload_bytes`
    limits multipart bodies, which are streamed; `max_request_bytes` limits all others. `heartbeat_seconds`: silence
    after which a stream gets a comment; 0: never. `adopt_unknown_ids`: the backends are searched for objects that the
    gateway did not create, which are then open to every key."""

    backends: list[Backend]
    models: dict[str, Model] = {}
    prices: list[PriceLine] = []
    export: ExportSettings = ExportSettings()
    azure_monitor: str = "https://{region}.metrics.monitor.azure.com"
    limits: LimitSettings = LimitSettings()
    alerts: AlertSettings = AlertSettings()
    products: dict[str, Product] = {}
    teams: dict[str, Team] = {}
    end_users: EndUsers = EndUsers()
    client_address: ClientAddress = ClientAddress()
    allowed_networks: list[str] = []
    cors: CorsSettings = CorsSettings()
    entra: EntraSettings | None = None
    timeouts: Timeouts = Timeouts()
    retry: RetrySettings = RetrySettings()
    ledger: LedgerSettings = LedgerSettings()
    telemetry: Tracing = Tracing()
    allowed: Allowed = Allowed()
    max_request_bytes: Annotated[int, Meta(ge=1024, le=100 * 1024 * 1024)] = 32 * 1024 * 1024
    max_upload_bytes: Annotated[int, Meta(ge=1024, le=2**40)] = 1024 * 1024 * 1024
    heartbeat_seconds: Annotated[float, Meta(ge=0, le=200)] = 15.0
    adopt_unknown_ids: bool = False

    def model_names(self) -> list[str]:
        """All models that a backend serves, in the order of the document."""
        return list(dict.fromkeys(model for backend in self.backends for model in backend.models))

    @functools.cached_property
    def regions(self) -> frozenset[str]:
        """The regions to which calls can be limited."""
        return frozenset(backend.region for backend in self.backends if backend.api == "azure")

    @functools.cached_property
    def data_zones(self) -> frozenset[str]:
        """The data zones to which calls can be limited."""
        return frozenset(zone for backend in self.backends if (zone := backend.data_zone))

    @functools.cached_property
    def aliases(self) -> dict[str, str]:
        """Alias -> the model."""
        return {alias: name for name, model in self.models.items() for alias in model.aliases}

    @functools.cached_property
    def anthropic(self) -> frozenset[str]:
        """The models that are called by Anthropic's API: as configured, else those that Anthropic itself serves, and
        those with `claude` in their name or in that of a deployment."""
        named: dict[str, bool] = {}
        for backend in self.backends:
            for model, deployment in backend.deployments.items():
                claude = "claude" in f"{model} {deployment}".lower() and backend.api == "azure"
                named[model] = named.get(model, False) or claude or backend.api == "anthropic"
        explicit = {
            name: form == "anthropic" for name, model in self.models.items() if (form := model.format) is not None
        }
        return frozenset(name for name, claude in named.items() if explicit.get(name, claude))

    def alike(self, model: str, other: str) -> bool:
        """True if both models are called by the same API."""
        return (model in self.anthropic) == (other in self.anthropic)

    @functools.cached_property
    def team_limits(self) -> dict[str, Limits]:
        """The limits that the keys of each team share, by the sections `teams` and `limits.teams`."""
        return self.limits.teams | {name: team.limits for name, team in self.teams.items()}

    @functools.cached_property
    def team_owners(self) -> dict[str, frozenset[str]]:
        """The object ids of each team's owners."""
        return {name: team.owners for name, team in self.teams.items()}

    @functools.cached_property
    def callable_names(self) -> frozenset[str]:
        """The names of models that callers may use: those that a backend serves, their aliases, and those that a
        successor serves."""
        return frozenset([*self.model_names(), *self.aliases, *self.switches])

    def canonical(self, model: str) -> str:
        """The model of an alias; any other name is returned as it is."""
        return self.aliases.get(model, model)

    @functools.cached_property
    def switches(self) -> dict[str, tuple[int, str]]:
        """Model -> its successor, and from when on (seconds since 1970) that serves in its place."""
        named = {name: model.replaced_by for name, model in self.models.items() if model.replaced_by is not None}
        return {name: (since_seconds(successor.since), successor.model) for name, successor in named.items()}

    def served(self, model: str, now: float) -> str:
        """The model that serves calls to this name at a time in seconds since 1970."""
        name = self.canonical(model)
        while (switch := self.switches.get(name)) is not None and now >= switch[0]:
            name = switch[1]
        return name
