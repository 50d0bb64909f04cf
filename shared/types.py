"""Frozen values that pass between the stages of a request."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shared.config.document import Api, Backend, FallbackReason, Format
from shared.config.limits import Limits
from shared.token_classes import TokenCounts

BATCH = "batch"  # the service tier of a batch
US = "us"  # behind another service tier, or alone: the model ran in the United States, for which Anthropic charges more
BATCHES = ("batch", "message_batch")  # the kinds of objects that are one
FAST = "fast"  # the tier of Claude's `speed: fast`
TIERS = ("flex", "priority", FAST)  # the service tiers that backends throttle apart from the standard one

Surface = Literal["openai", "dated", "v1", "anthropic"]
"""The form of a path: `/v1/…`, Azure's dated `/openai/…?api-version=`, Azure's `/openai/v1/…`, or Anthropic's API."""

_LONG_CONTEXT = 272_000
_LONG_CONTEXTS = (("claude-haiku-5-5", 100_000), ("claude", 200_000))  # by the beginning of a model's name


def long_context(served: str) -> int:
    """The input tokens above which all of a call to this model, as the backend names it, has the prices of long
    context."""
    return next((most for name, most in _LONG_CONTEXTS if served.startswith(name)), _LONG_CONTEXT)


class Target(msgspec.Struct, frozen=True):
    """One deployment of one backend, the target of an attempt. `model` is its configured name. `tier`: the service tier
    of the attempt, if its backend throttles it apart from the standard one (`TIERS`); else ""."""

    backend: Backend
    model: str
    deployment: str
    tier: str = ""

    @property
    def deployment_type(self) -> str:
        """The type of the deployment, as answers name it; "": a target without a deployment."""
        return (self.backend.type_of(self.model) or "unset") if self.model else ""


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The regions and data zones that a consumer's calls must stay in; None: any. If both are given, both apply.

    `pin`: it may choose the backend. `explain`: it may see routing decisions, and so the names of backends.
    `whole_account`: it may use operations that read the objects of all consumers."""

    regions: frozenset[str] | None = None
    data_zones: frozenset[str] | None = None
    pin: bool = False
    explain: bool = False
    whole_account: bool = False

    @property
    def is_limited(self) -> bool:
        return self.regions is not None or self.data_zones is not None

    def allows(self, backend: Backend, model: str) -> bool:
        """True if the calls to this model's deployment stay where this consumer's must; `model` "": if the objects of
        the backend do. A regional deployment stays in its region, and so in the data zone of that, and one of a data
        zone stays there. Of a deployment without a type, the document says no more than where its backend is: that
        counts, as it did before there were types. OpenAI's calls go anywhere."""
        if not self.is_limited:
            return True
        if backend.api != "azure":
            return False
        kind = backend.type_of(model) if model else None
        if kind == "global" or (kind == "data_zone" and self.regions is not None):
            return False
        return (self.regions is None or backend.region in self.regions) and (
            self.data_zones is None or backend.data_zone in self.data_zones
        )

    def allows_unseen(self, backend: Backend) -> bool:
        """True if the calls to any deployment of a backend may stay: nothing is stated of any. One that states types
        may have deployments that leave, beside those that the document has."""
        stated = any(backend.type_of(model) is not None for model in backend.models)
        return self.allows(backend, "") and not (self.is_limited and stated)


ANYWHERE = Access()


class Consumer(msgspec.Struct, frozen=True, gc=False):
    """The owner of a key. `models` None: every configured model. `products` are its subscriptions, the default first;
    `product` is the one of a call, as its caller names it, or a mere label for reports if the gateway has no products.
    `team` is set by the operator: its keys share limits. `model_limits` apply per model, in addition to `limits`.
    `addresses`: the networks it may call from; empty: any."""

    id: str
    name: str
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    product: str = ""
    team: str = ""
    model_limits: dict[str, Limits] = {}
    addresses: tuple[str, ...] = ()
    access: Access = ANYWHERE
    products: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the tables of operations in `azure_openai/operations.py` and `anthropic/operations.py`. `format`: the
    API whose bodies it has.

    `path` follows the surface's prefix; `{kind}` stands for one segment, the id of an object of that kind. `model` is
    the place of the model's name (`optional`: in the body or absent; `hidden`: where the gateway cannot read or must
    not translate it). `model_at` are the fields of the body that may hold it; a dot joins outer and inner ones.
    `on_deployment`: Azure's dated API has the path below `/deployments/{name}`. `apis`: those that have it. `local`:
    answered from the configuration, without a backend. `free_form`: the answer need not be JSON. `body`: `sdp` is a
    WebRTC offer, alone or in a form.

    `metered`: `tokens` are generated, or `input` is only read; `once`: the answer reports the usage of an object that
    may be fetched often. `makes`, `lists`, `deletes`: the kind of the objects whose ids the answer has. `seals`: the
    answer may have content that only its backend can open. `body` `socket`: the call is a connection, and its body the
    events of a WebSocket.
    """

    name: str
    method: str
    path: str
    format: Format = "openai"
    model: Literal["body", "form", "optional", "hidden", "none"] = "none"
    model_at: tuple[str, ...] = ("model",)
    default_model: str = ""
    body: Literal["json", "multipart", "sdp", "socket", "none"] = "json"
    on_deployment: bool = False
    apis: tuple[Api, ...] = ("azure", "openai")
    local: bool = False
    streams: bool = False
    free_form: bool = False
    metered: Literal["tokens", "input", "once", "images", "audio", "speech", "none"] = "none"
    makes: str = ""
    lists: str = ""
    deletes: str = ""
    seals: bool = False

    @property
    def family(self) -> str:
        """The first word of its name, as `responses`."""
        return self.name.partition(".")[0]


class Reference(msgspec.Struct, frozen=True):
    """An object that exists in one backend only: its kind (`references.KINDS`) and its id at the backend."""

    kind: str
    id: str


class Binding(msgspec.Struct, frozen=True):
    """The backends that may serve a call, by name. `only` these, because they keep objects that the call names, or an
    object that it makes must be next to others; None: any. `first` is preferred if it is usable. `reason` explains the
    binding to the caller.
    """

    only: frozenset[str] | None = None
    first: str = ""
    reason: str = ""


UNBOUND = Binding()


class BatchedRequests(msgspec.Struct, frozen=True):
    """The requests of a batch of messages, in the body of its call. `bytes`: of all; `places`: of the models that they
    name, in the body, with the name. `models`: the configured name of each, once it is known (`Planner.named`)."""

    bytes: int
    requests: int
    places: tuple[tuple[int, int, str], ...]
    models: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The models, each once, that of the first request first."""
        return tuple(dict.fromkeys(name for _, _, name in self.places))


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed and validated request. `path` is that of the operation, with ids.

    `body` is as received; `values` has the places of its top-level values. `edits` are raw JSON values to set in the
    body for the backend, apart from the model's name. `body_model` is the model named in the body, at `model_at`;
    `other_models` are those that it names elsewhere, as for an advisor or a transcription, or that a request of a
    batch names besides its own.
    `multipart`: the body is not JSON; it is streamed separately (`requests/upload.py`). `usage_injected`: the caller
    did not request the stream's usage chunk, so it must not see it. `input_estimate` and `max_output_tokens` are
    tokens; the latter is None if the caller set no limit.

    `references` are the objects named in path and body; `brought` are the ids of items and sealed contents that the
    body has whole. `makes` is the kind of object that the call creates at the backend, or "". `background`: the answer
    is still being generated when the call ends. `leaves_parts`: the answer has parts that later calls name by their
    ids, stored or not. `user`: the user behind the key, as its caller names it; once the call is admitted, as usage
    shows it (`auth/end_users.py`). `batch`: the requests of a batch whose body has them, one by one.
    """

    operation: Operation
    surface: Surface
    model: str
    path: str = ""
    query: str = ""
    api_version: str | None = None
    body: bytes = b""
    values: dict[str, slice] = {}
    edits: dict[str, bytes] = {}
    body_model: str | None = None
    other_models: tuple[str, ...] = ()
    model_at: str = "model"
    multipart: bool = False
    stream: bool = False
    background: bool = False
    usage_injected: bool = False
    input_estimate: int = 0
    max_output_tokens: int | None = None
    headers: dict[str, str] = {}
    system: str = ""
    references: tuple[Reference, ...] = ()
    brought: frozenset[str] = frozenset()
    makes: str = ""
    leaves_parts: bool = False
    user: str = ""
    batch: BatchedRequests | None = None

    @property
    def stateful(self) -> bool:
        """True if the call depends on the backends of earlier calls, or leaves objects for later ones."""
        return bool(self.references or self.makes or self.operation.lists or not self.model or self.leaves_parts)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The targets of a call, best first. `model` is the configured name of the requested model.

    `seconds` is the caller's limit for the whole call. `canary` is the model that this call tests. `shadow`: targets of
    a copy whose answer is discarded. `notes`: routing decisions, if the caller wants to see them. `named`: the model
    that the caller named, if `model` has taken its place; else "". `announcement`: the headers that announce the end of
    the model that the caller named.
    """

    model: str
    targets: list[Target]
    fallback_on: frozenset[FallbackReason] = frozenset()
    seconds: float | None = None
    hedge: bool = False
    canary: str = ""
    shadow: list[Target] = []
    notes: list[str] | None = None
    named: str = ""
    announcement: Mapping[str, str] = {}


class Usage(TokenCounts, frozen=True, omit_defaults=True):
    """The usage of one call, as the backend reports it.

    `images`, `seconds` (of sound) and `characters` (spoken) are charged by operations without tokens; calls of tools
    (`token_classes.TOOLS`) beside the tokens. `model`, `service_tier`: those that served the call, in the backend's
    words. `estimated`: the backend reported no usage, so it was counted from the request and the answer. `summed`: it
    is the sum of many calls of the model, as that of a batch or a run; `long`: of calls of long context. `empty`: the
    answer has no content, because reasoning took all the tokens that the call allowed. `unknown`: the classes of tokens
    that the gateway does not know, as JSON.
    """

    images: int = 0
    seconds: float = 0.0
    characters: int = 0
    web_searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    model: str = ""
    service_tier: str = ""
    estimated: bool = False
    summed: bool = False
    long: bool = False
    empty: bool = False
    unknown: str = ""


Role = Literal["try", "hedge", "shadow", "part"]
"""`part`: no attempt, but the part of a batch that has another price: another model, or long context."""

BEATEN = "another was faster"  # the problem of a hedge's loser
LEFT = "the caller left"  # the problem of an attempt whose caller disconnected
LEFT_EARLY = "the caller left before the request was sent"


class Attempt(msgspec.Struct, frozen=True):
    """One attempt on one target. `status` 0: no answer. `problem` "": it answered the caller. `started` is monotonic.

    `usage` is charged, as reported or estimated, for an attempt that did not answer the caller; None: no charge, or one
    that is recorded when the attempt ends.
    """

    target: Target
    status: int
    problem: str
    milliseconds: float
    role: Role = "try"
    usage: Usage | None = None
    started: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a call, for the ledger and the log. Times are in milliseconds since the request arrived. `code`: of
    the gateway's own error, if it answered with one. `quiet_seconds`: those in which the model was waited for and said
    nothing, of an answer that its caller left."""

    status: int
    usage: Usage = Usage()
    attempts: tuple[Attempt, ...] = ()
    served_by: Target | None = None
    first_byte_ms: int = 0
    total_ms: int = 0
    ended: Literal["complete", "refused", "hung_up", "cut"] = "complete"
    code: str = ""
    quiet_seconds: float = 0.0
