"""The shapes of answers that other packages make, for the OpenAPI document. Every member that is named is always there,
unless it is `NotRequired`; others may follow."""

from typing import Any, Literal, NotRequired, TypedDict


class Health(TypedDict):
    """Liveness."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """Readiness. Operators also see the store's state and the models without a backend."""

    status: Literal["ready", "not ready"]
    store: NotRequired[str]
    models_without_backend: NotRequired[list[str]]


class OwnRoles(TypedDict):
    """The operator who asks."""

    name: str
    roles: list[str]
    teams: list[str]


class Drain(TypedDict):
    """A drain in force. Times in RFC 3339."""

    until: str
    since: str
    reason: str
    by: str


class Drained(TypedDict):
    """A backend that was drained."""

    name: str
    drained: Drain


class Deployment(TypedDict):
    """A deployment as this instance sees it; `shared`: as the instances share it."""

    deployment: str
    type: str | None
    models: list[str]
    state: Literal["usable", "cooling", "ejected", "half_open"]
    reason: str
    ejected_for: float
    cooling_for: float
    in_flight: int
    remaining: dict[str, Any] | None
    shared: dict[str, Any] | None


class Backend(TypedDict):
    """A backend with its deployments. `throttles` and `ejections`: since the start of this instance."""

    name: str
    region: str
    data_zone: str | None
    kind: str
    priority: int
    weight: float
    throttles: int
    ejections: int
    deployments: list[Deployment]
    drained: Drain | None


class Backends(TypedDict):
    """The backends as one instance sees them. `simulated`: there is `/gateway/simulation`."""

    instance: str
    health_table: Literal["ok", "unreachable"]
    simulated: bool
    backends: list[Backend]


class Complaint(TypedDict):
    """Something wrong in a configuration."""

    path: str
    message: str


class Refused(TypedDict):
    """A document or version that is newer than the one in service, and cannot be used."""

    name: str
    complaints: list[Complaint]


class Base(TypedDict):
    """The base document."""

    source: str
    sha256: str


class Configuration(TypedDict):
    """The configuration that is served. `sections`: where each of the document comes from."""

    version: int
    by: str
    at: str | None
    note: str
    base: Base
    sections: dict[str, str]
    warnings: list[str]
    refused: list[Refused]
    needs_restart: list[str]
    document: dict[str, Any]


class Version(TypedDict):
    """A version of the configuration, with the names of its sections. `document`: the sections, of one alone."""

    version: int
    by: str
    at: str | None
    note: str
    sections: list[str]
    current: bool
    document: NotRequired[dict[str, Any]]


class Versions(TypedDict):
    """A page of versions, the newest first."""

    data: list[Version]
    after: str | None


class SectionChange(TypedDict):
    """A section before and after a change; null: it is not there."""

    section: str
    before: Any
    after: Any


class Validated(TypedDict):
    """The changes that a version would make."""

    valid: Literal[True]
    changes: list[SectionChange]


class LimitLine(TypedDict):
    """The remainder of one limit. `available`: of what renews continuously or is held at a time. The others, but for
    `on_lease`, are a quota's."""

    scope: str
    about: str
    unit: str
    per: str
    limit: float
    available: NotRequired[float]
    on_lease: NotRequired[float]
    used: NotRequired[float]
    renews: NotRequired[str]
    forecast: NotRequired[float]
    exhausted: NotRequired[str | None]
    instances: int


class AllLimits(TypedDict):
    """The remainder of every limit, and the state of this instance's limiter."""

    mode: Literal["normal", "safe"]
    safe_since: str | None
    hits: list[dict[str, Any]]
    limits: list[LimitLine]


class Budgets(TypedDict):
    """The budgets that are used most, and the number of all."""

    budgets: list[LimitLine]
    all: int


class ConsumerLimits(TypedDict):
    """The remainder of a consumer's limits."""

    id: str
    name: str
    limits: list[LimitLine]


class Usage(TypedDict):
    """Usage and cost: a line per value of the dimensions, and their sum."""

    since: str
    until: str
    lines: list[dict[str, Any]]
    total: dict[str, Any]


class ServedBy(TypedDict):
    """A deployment of a model."""

    backend: str
    region: str
    deployment: str


class PriceOf(TypedDict):
    """The price of a model at some backends, in the standard tier. `usd`: per million tokens or characters, per second
    of sound, per image."""

    backends: list[str]
    source: str
    usd: dict[str, float]


class Model(TypedDict):
    """A configured model. `format`: the API that it is called by. Days as YYYY-MM-DD."""

    model: str
    aliases: list[str]
    served_by: str
    format: Literal["openai", "anthropic"]
    backends: list[ServedBy]
    price_known: bool
    prices: list[PriceOf]
    retires: str | None
    days_left: int | None
    replacement: str | None
    source: str | None
    read: str | None
    replaced_by: dict[str, Any] | None


class Models(TypedDict):
    """The configured models."""

    models: list[Model]


class ProvisionedPlan(TypedDict):
    """Provisioned capacity of a model for a forecast. `curve`: USD per month by way to pay, at each of the average
    requests per minute."""

    model: str
    units_needed_on_average: float
    units_needed_at_peak: float
    minimum_units: int
    step_units: int
    payments: list[dict[str, Any]]
    offered: list[str]
    price_source: str
    throughput_source: str
    curve: dict[str, Any]


class ProvisionedPlans(TypedDict):
    """The plans of the models whose figures are known, and the sources of what they share."""

    plans: list[ProvisionedPlan]
    sources: dict[str, str]


class OwnModel(TypedDict):
    """A model that the caller may use. `format`: the API that it is called by. `usd_per_million` tokens of each class;
    null: no price is known."""

    model: str
    aliases: list[str]
    served_by: str
    format: Literal["openai", "anthropic"]
    usd_per_million: dict[str, float] | None
    retires: str | None
    days_left: int | None
    replacement: str | None
    replaced_by: dict[str, Any] | None


class OwnModels(TypedDict):
    """The models that the caller may use."""

    models: list[OwnModel]


class Call(TypedDict):
    """A call. `code` and `message`: why it was refused. `empty`: reasoning left its answer without content. `tries` and
    `charges`: of one call alone."""

    id: str
    at: str
    consumer: str
    name: str
    team: str | None
    product: str | None
    model: str | None
    status: int | None
    ended: str | None
    code: str | None
    message: str | None
    estimated: bool
    empty: bool
    cost_usd: float | None
    tries: NotRequired[list[dict[str, Any]]]
    charges: NotRequired[list[dict[str, Any]]]


class Calls(TypedDict):
    """A page of calls, the newest first."""

    data: list[Call]
    after: str | None


class AlertResult(TypedDict):
    """The end of an alert at one receiver."""

    receiver: str
    kind: str
    host: str
    accepted: bool
    tries: int
    problem: str
    at: str | None


class AlertReceiver(TypedDict):
    """A receiver and the last result there; null: there is none on record."""

    receiver: str
    kind: str
    host: str
    events: list[str]
    last: AlertResult | None


class SentAlert(TypedDict):
    """An alert. `results` null: it is on its way; empty: it is in the log only."""

    at: str | None
    event: str
    severity: Literal["info", "warning", "error"]
    message: str
    until: str | None
    facts: dict[str, Any]
    results: list[AlertResult] | None


class Alerts(TypedDict):
    """The alerts that hold, and those that were sent, the newest first. Without the table: of this instance alone."""

    table: Literal["ok", "unreachable"]
    firing: list[SentAlert]
    sent: list[SentAlert]
    receivers: list[AlertReceiver]


class AuditRecord(TypedDict):
    """A change. `state`: done, failed, or begun if its end is unknown. `before` and `after` null: it is not there."""

    at: str
    actor: str
    address: str
    action: str
    object: str
    request: str
    state: str
    before: Any
    after: Any


class AuditTrail(TypedDict):
    """A page of changes, the newest first."""

    data: list[AuditRecord]
    after: str | None
