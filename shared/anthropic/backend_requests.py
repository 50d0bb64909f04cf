"""Turns a `Call` of Anthropic's API and a `Target` into the request that a backend receives."""

import msgspec

from shared.anthropic.batch_requests import body_for
from shared.azure_openai.backend_requests import CLASSIC_SCOPE, UpstreamRequest, service_tier
from shared.azure_openai.json_body import rewrite
from shared.config.document import Api
from shared.types import Call, Target

MESSAGES_PREFIX: dict[Api, str] = {"azure": "/anthropic/v1/", "anthropic": "/v1/"}


def upstream_message(call: Call, target: Target) -> UpstreamRequest:
    """The request for a call on one target: Anthropic itself, or a Foundry resource, which has the API below another
    path. The body passes unchanged, except the name of the model where the deployment has another."""
    backend, edits = target.backend, call.edits
    if target.deployment and call.body_model is not None and call.body_model != target.deployment:
        edits = edits | {"model": msgspec.json.encode(target.deployment)}
    if not target.tier and service_tier(call):
        edits = edits | {"speed": b'"standard"'}
    body = rewrite(call.body, call.values, edits) if edits else call.body
    if call.batch is not None:
        body = body_for(call, backend)
    query = f"?{call.query}" if call.query else ""
    url = backend.endpoint.rstrip("/") + MESSAGES_PREFIX[backend.api] + call.path + query
    return UpstreamRequest(call.operation.method, url, backend.token_scope or CLASSIC_SCOPE, body)
