"""The frozen values that pass between the stages of a request. No behaviour beyond what a value says of itself."""

from typing import Literal

import msgspec

from shared.config.document import Backend, FallbackReason, Limits
from shared.token_classes import TokenCounts

LONG_CONTEXT = 272_000  # tokens of input above which a call is charged as one of long context, all of it


Surface = Literal["openai", "dated", "v1"]
"""How a caller spelled the path: `/v1/…`, Azure's dated `/openai/…?api-version=`, or Azure's `/openai/v1/…`."""


"""Where Azure may serve a deployment from, which its prices depend on."""


class Target(msgspec.Struct, frozen=True):
    """One deployment of one backend: what a single try goes to. `model` is the caller's word for the deployment."""

    backend: Backend
    model: str
    deployment: str


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a consumer's calls may go, None: anywhere; where both are given, both hold. `pin`: whether it may choose
    the backend itself; `explain`: whether it is told of the decisions, and so of the backends that there are."""

    regions: frozenset[str] | None = None
    data_zones: frozenset[str] | None = None
    pin: bool = False
    explain: bool = False

    def allows(self, backend: Backend) -> bool:
        return (self.regions is None or backend.region in self.regions) and (
            self.data_zones is None or backend.data_zone in self.data_zones
        )


ANYWHERE = Access()


class Consumer(msgspec.Struct, frozen=True, gc=False):
    """Who calls. `models` None: every model of the configuration. `product` is the caller's own word, for the records;
    `team` is the operator's: its keys share limits. `model_limits` hold beside `limits`, per model. `addresses`: the
    networks it may call from; none: any."""

    id: str
    name: str
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    product: str = ""
    team: str = ""
    model_limits: dict[str, Limits] = {}
    addresses: tuple[str, ...] = ()
    access: Access = ANYWHERE


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table of operations in `azure_openai.py`.

    `path` is what follows the surface's prefix; `{kind}` stands for one segment, the id of an object of that kind.
    `model`: where the model's name stands (`hidden`: in places where the gateway cannot read or must not translate it;
    `optional`: in the body, or nowhere), `model_at` the fields of the body that may hold it, outer and inner joined by
    a dot. `on_deployment`: Azure's dated API has it below `/deployments/{name}`. `local`: answered from the
    configuration, no backend is asked. `free_form`: the answer need not be JSON. `body`: `sdp` is an offer of WebRTC,
    alone or in a form.

    `metered`: `tokens` generates them, `input` only reads them; `once`: the answer tells the usage of something that
    may be asked for often. `makes`: the kind of the object whose id the answer tells; `lists`, `deletes` likewise.
    """

    name: str
    method: str
    path: str
    model: Literal["body", "form", "optional", "hidden", "none"] = "none"
    model_at: tuple[str, ...] = ("model",)
    default_model: str = ""
    body: Literal["json", "multipart", "sdp", "none"] = "json"
    on_deployment: bool = False
    local: bool = False
    streams: bool = False
    free_form: bool = False
    metered: Literal["tokens", "input", "once", "images", "audio", "speech", "none"] = "none"
    makes: str = ""
    lists: str = ""
    deletes: str = ""


class Reference(msgspec.Struct, frozen=True):
    """An object that exists in one backend only, by its kind (`references.KINDS`) and the id that the backend gave."""

    kind: str
    id: str


class Binding(msgspec.Struct, frozen=True):
    """Which backends a call may go to, by their names. `only`: to these and no other, because it names what they keep,
    or makes what belongs beside it; None: to any. `first`: before all others, when it is usable.

    `reason`: why, for the caller whom no other backend can help.
    """

    only: frozenset[str] | None = None
    first: str = ""
    reason: str = ""


UNBOUND = Binding()


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asked for, parsed and checked. `path`: that of the operation, with the ids in it.

    `body` is as received, `values` tells where the values at its top level stand. `edits` are raw JSON values to be put
    there in the body that goes upstream, the model's name apart. `body_model`: the model that the body names, at
    `model_at`. `multipart`: the body is none of JSON, and passes beside the call (`uploads.py`). `usage_injected`: the
    caller did not ask for the stream's usage chunk, so it must not see it. `input_estimate`, `max_output_tokens` in
    tokens; the latter None when the caller set no bound.

    `references`: the objects that the call names, in its path or its body. `makes`: the kind of object that it makes
    and leaves in the backend, or "". `background`: the answer goes on being made when the call has ended. `seals`: the
    answer has content that only its backend can open, or parts that later calls name by their ids.
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
    makes: str = ""
    seals: bool = False

    @property
    def stateful(self) -> bool:
        """Whether it matters for this call where earlier ones went, or for later ones where this one goes."""
        return bool(self.references or self.makes or self.operation.lists or not self.model or self.seals)


"""Why another model serves: no backend of the model is usable, its window is too small, or its filter refused."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a call is to be sent. `model`: what was asked for, by its configured name; `targets` the best first.

    `seconds`: the caller's own bound for the whole call. `canary`: the model that this call tries out. `shadow`: where
    a copy goes whose answer nobody sees. `notes`: the decisions, where the caller wants to know.
    """

    model: str
    targets: list[Target]
    fallback_on: frozenset[FallbackReason] = frozenset()
    seconds: float | None = None
    hedge: bool = False
    canary: str = ""
    shadow: list[Target] = []
    notes: list[str] | None = None


class Usage(TokenCounts, frozen=True):
    """The usage of one call, as the backend reports it.

    `images`, `seconds` (of sound) and `characters` (spoken) are charged by operations without tokens. `model`,
    `service_tier`: those that served the call, in the backend's words. `estimated`: the backend reported no usage, so
    it was counted from the request and the answer.
    """

    images: int = 0
    seconds: float = 0.0
    characters: int = 0
    model: str = ""
    service_tier: str = ""
    estimated: bool = False


Role = Literal["try", "hedge", "shadow"]


BEATEN = "another was faster"  # the problem of a try that was called off, a hedge's loser
LEFT = "the caller left"  # and of one that its caller did not wait for


class Attempt(msgspec.Struct, frozen=True):
    """One try on one target. `status` 0: no answer; `problem` "": this one answered the caller. `started` on the
    monotonic clock.

    `usage`: what the backend charged, or will have charged, for a try that did not answer the caller; None: nothing.
    """

    target: Target
    status: int
    problem: str
    milliseconds: float
    role: Role = "try"
    usage: Usage | None = None
    started: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended, for the ledger and the log. Times in milliseconds since the request arrived."""

    status: int
    usage: Usage = Usage()
    attempts: tuple[Attempt, ...] = ()
    served_by: Target | None = None
    first_byte_ms: int = 0
    total_ms: int = 0
    ended: Literal["complete", "refused", "hung_up", "cut"] = "complete"
