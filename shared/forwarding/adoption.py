"""Looks for an object that the gateway has not seen being made, by asking a backend for it."""

from shared.azure_openai import operations, requests
from shared.azure_openai.references import KINDS
from shared.config.document import Backend
from shared.errors import GatewayError, StateUnavailable
from shared.forwarding.forwarder import Forwarder, ForwardingFailed
from shared.types import Plan, Reference, Target


async def has_object(forwarder: Forwarder, backend: Backend, reference: Reference) -> bool:
    """Whether a backend has it. Raises `StateUnavailable` when it does not say."""
    path = "/v1/" + KINDS[reference.kind].path.format(reference.id)
    try:
        call = requests.parse_call(operations.match("GET", path), "", {}, b"")
    except GatewayError:
        return False  # nothing has such an id
    try:
        plan = Plan(model="", targets=[Target(backend, "", "")])
        upstream = await forwarder.sending(call, plan, "adoption", forwarder.breakers.clock()).run()
    except ForwardingFailed as failed:
        raise StateUnavailable(failed.error.message) from None
    upstream.close()
    if upstream.status not in (200, 400, 404):
        raise StateUnavailable(f"status {upstream.status}")
    return upstream.status == 200
