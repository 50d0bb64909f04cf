"""Prepares calls for their forwarding, and asks backends in the gateway's own name."""

from collections.abc import Mapping

from shared.anthropic import operations as messages_operations
from shared.azure_openai import apis, operations, requests
from shared.azure_openai.references import KINDS
from shared.config.document import Backend, Model, RetrySettings
from shared.errors import InvalidRequest, StateUnavailable, UnknownPath
from shared.forwarding.backend_client import BackendClient
from shared.forwarding.forwarded_call import ForwardedCall, ForwardingFailed, Record
from shared.forwarding.late_attempts import LateAttempts
from shared.forwarding.response import Answer
from shared.requests.upload import Upload
from shared.routing.breakers import Breakers
from shared.routing.retry_budget import RetryBudget
from shared.routing.router import Router
from shared.types import Call, Plan, Reference, Target


class Forwarder:
    """One per configuration."""

    def __init__(
        self,
        client: BackendClient,
        breakers: Breakers,
        router: Router,
        models: Mapping[str, Model],
        budget: RetryBudget,
        late: LateAttempts,
        retry: RetrySettings,
    ) -> None:
        """`models`: the settings of those that have some. `budget`, `late`: the ones of the process."""
        self.models = models
        self.client = client
        self.breakers = breakers
        self.router = router
        self.timeouts = client.timeouts
        self.budget = budget
        self.late = late
        self.retry = retry

    def sending(
        self,
        call: Call,
        plan: Plan,
        request_id: str,
        upload: Upload | None = None,
        record: Record | None = None,
        *,
        kept_alive: bool = False,
    ) -> ForwardedCall:
        """Prepare a call whose body is there, from when its deadline counts; that of an `upload` restarts at its
        end. An `upload` goes to another target as long as everything received of it is kept. Without a
        `record`, no attempt goes on after the call has its answer, and other models than the plan's have no limits.
        `kept_alive`: comments keep the caller's connection, so that a stream may take its whole time until its first
        content."""
        return ForwardedCall(self, call, plan, request_id, upload, record, kept_alive=kept_alive)

    async def has_object(self, backend: Backend, reference: Reference) -> bool:
        """Ask a backend for an object. Raises `StateUnavailable` if the backend does not answer."""
        kind = reference.kind
        try:
            answer = await self.get(backend, kind, KINDS[kind].path.format(reference.id), "adoption")
        except (UnknownPath, InvalidRequest):
            return False  # no object has such an id, or this API no such object
        answer.close()
        if answer.status not in (200, 400, 404):
            raise StateUnavailable(f"status {answer.status}")
        return answer.status == 200

    async def get(self, backend: Backend, kind: str, path: str, request_id: str) -> Answer:
        """Ask a backend, in the gateway's own name, for an object of this kind, or what it has, by its path below
        `/v1/`. The receiver of the answer closes it. Raises `StateUnavailable` if the backend does not answer, and
        `UnknownPath` or `InvalidRequest` for a path that no object of its API has."""
        path, _, query = path.partition("?")
        table = messages_operations if KINDS[kind].format == "anthropic" else operations
        call = requests.parse_call(table.match("GET", f"/v1/{path}"), query, {}, b"")
        if (refused := apis.refusal(call, backend.api)) is not None:
            raise refused
        try:
            return await self.sending(call, Plan(model="", targets=[Target(backend, "", "")]), request_id).run()
        except ForwardingFailed as failed:
            raise StateUnavailable(failed.error.message) from None
