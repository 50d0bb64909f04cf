"""The shapes of answers that other packages make, for the OpenAPI document, each with its members. Every member that is
named is always there, unless it is `NotRequired`; others may follow."""

# mypy: disable-error-code="valid-type"

from typing import Any, Literal, NotRequired, TypedDict


def _shape(name: str, doc: str, /, **members: Any) -> Any:
    """The type of a JSON object. `doc`: its description."""
    shape: Any = TypedDict(name, members)  # type: ignore[misc]
    shape.__doc__ = doc
    return shape


Health = _shape("Health", "Liveness.", status=Literal["ok"])
Readiness = _shape(
    "Readiness",
    "Readiness. Operators also see the store's state and the models without a backend.",
    status=Literal["ready", "not ready"],
    store=NotRequired[str],
    models_without_backend=NotRequired[list[str]],
)
OwnRoles = _shape("OwnRoles", "The operator who asks.", name=str, roles=list[str], teams=list[str])
Drain = _shape("Drain", "A drain in force. Times in RFC 3339.", until=str, since=str, reason=str, by=str)
Drained = _shape("Drained", "A backend that was drained.", name=str, drained=Drain)
Deployment = _shape(
    "Deployment",
    "A deployment as this instance sees it; `shared`: as the instances share it.",
    deployment=str,
    type=str | None,
    models=list[str],
    state=Literal["usable", "cooling", "ejected", "half_open"],
    reason=str,
    ejected_for=float,
    cooling_for=float,
    in_flight=int,
    remaining=dict[str, Any] | None,
    shared=dict[str, Any] | None,
)
Backend = _shape(
    "Backend",
    "A backend with its deployments. `throttles` and `ejections`: since the start of this instance.",
    name=str,
    region=str,
    data_zone=str | None,
    kind=str,
    priority=int,
    weight=float,
    throttles=int,
    ejections=int,
    deployments=list[Deployment],
    drained=Drain | None,
)
Backends = _shape(
    "Backends",
    "The backends as one instance sees them. `simulated`: there is `/gateway/simulation`.",
    instance=str,
    health_table=Literal["ok", "unreachable"],
    simulated=bool,
    backends=list[Backend],
)
Complaint = _shape("Complaint", "Something wrong in a configuration.", path=str, message=str)
Refused = _shape(
    "Refused",
    "A document or version that is newer than the one in service, and cannot be used.",
    name=str,
    complaints=list[Complaint],
)
Base = _shape("Base", "The base document.", source=str, sha256=str)
Configuration = _shape(
    "Configuration",
    "The configuration that is served. `sections`: where each of the document comes from.",
    version=int,
    by=str,
    at=str | None,
    note=str,
    base=Base,
    sections=dict[str, str],
    warnings=list[str],
    refused=list[Refused],
    needs_restart=list[str],
    document=dict[str, Any],
)
Version = _shape(
    "Version",
    "A version of the configuration, with the names of its sections. `document`: the sections, only in the answer for "
    "one version.",
    version=int,
    by=str,
    at=str | None,
    note=str,
    sections=list[str],
    current=bool,
    document=NotRequired[dict[str, Any]],
)
Versions = _shape("Versions", "A page of versions, the newest first.", data=list[Version], after=str | None)
SectionChange = _shape(
    "SectionChange", "A section before and after a change; null: it is not there.", section=str, before=Any, after=Any
)
Validated = _shape(
    "Validated", "The changes that a version would make.", valid=Literal[True], changes=list[SectionChange]
)
LimitLine = _shape(
    "LimitLine",
    "The remainder of one limit. `available`: of a rate, or of calls at a time. The others, except `on_lease`, are of "
    "a quota.",
    scope=str,
    about=str,
    unit=str,
    per=str,
    limit=float,
    available=NotRequired[float],
    on_lease=NotRequired[float],
    used=NotRequired[float],
    renews=NotRequired[str],
    forecast=NotRequired[float],
    exhausted=NotRequired[str | None],
    instances=int,
)
AllLimits = _shape(
    "AllLimits",
    "The remainder of every limit, and the state of this instance's limiter.",
    mode=Literal["normal", "safe"],
    safe_since=str | None,
    hits=list[dict[str, Any]],
    limits=list[LimitLine],
)
Budgets = _shape("Budgets", "The budgets that are used most, and the number of all.", budgets=list[LimitLine], all=int)
ConsumerLimits = _shape(
    "ConsumerLimits", "The remainder of a consumer's limits.", id=str, name=str, limits=list[LimitLine]
)
Usage = _shape(
    "Usage",
    "Usage and cost: a line per value of the dimensions, and their sum.",
    since=str,
    until=str,
    lines=list[dict[str, Any]],
    total=dict[str, Any],
)
ServedBy = _shape("ServedBy", "A deployment of a model.", backend=str, region=str, deployment=str)
PriceOf = _shape(
    "PriceOf",
    "The price of a model at some backends, in the standard tier. `usd`: per million tokens or characters, per second "
    "of sound, per image.",
    backends=list[str],
    source=str,
    usd=dict[str, float],
)
Model = _shape(
    "Model",
    "A configured model. `format`: the API that it is called by. Days as YYYY-MM-DD.",
    model=str,
    aliases=list[str],
    served_by=str,
    format=Literal["openai", "anthropic"],
    backends=list[ServedBy],
    price_known=bool,
    prices=list[PriceOf],
    retires=str | None,
    days_left=int | None,
    replacement=str | None,
    source=str | None,
    read=str | None,
    replaced_by=dict[str, Any] | None,
)
Models = _shape("Models", "The configured models.", models=list[Model])
ProvisionedPlan = _shape(
    "ProvisionedPlan",
    "Provisioned capacity of a model for a forecast. `curve`: USD per month by way to pay, at each of the "
    "average requests per minute.",
    model=str,
    units_needed_on_average=float,
    units_needed_at_peak=float,
    minimum_units=int,
    step_units=int,
    payments=list[dict[str, Any]],
    offered=list[str],
    price_source=str,
    throughput_source=str,
    curve=dict[str, Any],
)
ProvisionedPlans = _shape(
    "ProvisionedPlans",
    "The plans of the models whose figures are known, and the sources of what they share.",
    plans=list[ProvisionedPlan],
    sources=dict[str, str],
)
OwnModel = _shape(
    "OwnModel",
    "A model that the caller may use. `format`: the API that it is called by. `backends`: those that it may choose by "
    "`x-gateway-backend`. `usd_per_million` tokens of each class; null: no price is known.",
    model=str,
    aliases=list[str],
    served_by=str,
    format=Literal["openai", "anthropic"],
    backends=list[ServedBy],
    usd_per_million=dict[str, float] | None,
    retires=str | None,
    days_left=int | None,
    replacement=str | None,
    replaced_by=dict[str, Any] | None,
)
OwnModels = _shape("OwnModels", "The models that the caller may use.", models=list[OwnModel])
Call = _shape(
    "Call",
    "A call. `code` and `message`: why it was refused. `empty`: reasoning left its answer without content. "
    "`tries` and `charges`: in the answer for one call only.",
    id=str,
    at=str,
    consumer=str,
    name=str,
    team=str | None,
    product=str | None,
    model=str | None,
    status=int | None,
    ended=str | None,
    code=str | None,
    message=str | None,
    estimated=bool,
    empty=bool,
    cost_usd=float | None,
    tries=NotRequired[list[dict[str, Any]]],
    charges=NotRequired[list[dict[str, Any]]],
)
Calls = _shape("Calls", "A page of calls, the newest first.", data=list[Call], after=str | None)
AlertResult = _shape(
    "AlertResult",
    "The result of sending an alert to one receiver.",
    receiver=str,
    kind=str,
    host=str,
    accepted=bool,
    tries=int,
    problem=str,
    at=str | None,
)
AlertReceiver = _shape(
    "AlertReceiver",
    "A receiver and the last result there; null: there is none on record.",
    receiver=str,
    kind=str,
    host=str,
    events=list[str],
    last=AlertResult | None,
)
SentAlert = _shape(
    "SentAlert",
    "An alert. `results` null: it is being sent; empty: it was only logged.",
    at=str | None,
    event=str,
    severity=Literal["info", "warning", "error"],
    message=str,
    until=str | None,
    facts=dict[str, Any],
    results=list[AlertResult] | None,
)
Alerts = _shape(
    "Alerts",
    "The alerts that hold, and those that were sent, the newest first. Without the table: of this instance alone.",
    table=Literal["ok", "unreachable"],
    firing=list[SentAlert],
    sent=list[SentAlert],
    receivers=list[AlertReceiver],
)
AuditRecord = _shape(
    "AuditRecord",
    "A change. `state`: done, failed, or begun if its end is unknown. `before` and `after` null: it is not there.",
    at=str,
    actor=str,
    address=str,
    action=str,
    object=str,
    request=str,
    state=str,
    before=Any,
    after=Any,
)
AuditTrail = _shape("AuditTrail", "A page of changes, the newest first.", data=list[AuditRecord], after=str | None)
SimulatedBackend = _shape(
    "SimulatedBackend",
    "A backend and the fault of its region. null: it has none, or is not simulated.",
    name=str,
    fault=str | None,
)
Simulation = _shape("Simulation", "The backends, simulated or not.", backends=list[SimulatedBackend])
