"""The APIs that backends speak (`Backend.api`): their paths, headers and errors, and the calls that each serves. Pure.

Another API is a row of `APIS`, a kind in `config/document.py`, and the header of its key in `credentials.py`.
"""

from collections.abc import Callable

import msgspec

from shared.config.document import Api
from shared.errors import GatewayError, InvalidRequest, UnknownPath
from shared.types import Call

IMAGE_DEPLOYMENT = "x-ms-oai-image-generation-deployment"  # of Azure's image tool; callers name the model

_SAME_BELOW_DATED = "responses"  # beside the operations below a deployment: paths whose answers are alike in both APIs


class ApiFamily(msgspec.Struct, frozen=True):
    """One API. `name`: in messages. `prefix`: of the paths whose bodies name the model. `dated`: it has dated versions
    as well, with the deployment in the path. `request_id`: the header that takes the gateway's id of a call. `headers`:
    those of a caller that it receives; None: all that may leave the gateway.

    `access_errors`: pairs of status and code that say that this backend rejects the gateway, or has no such model;
    another may do better. `refusal`: returns the error for a call that the API cannot serve as its caller means it.
    """

    name: str
    prefix: str
    dated: bool
    request_id: str
    headers: frozenset[str] | None
    access_errors: frozenset[tuple[int, str]]
    refusal: Callable[[Call], GatewayError | None]


def refusal(call: Call, api: Api) -> GatewayError | None:
    """The error for a call that an API cannot serve; None: it can."""
    family = APIS[api]
    if api not in call.operation.apis:
        return UnknownPath(
            f"{family.name} has no {call.operation.method} {call.operation.path}, and no other backend can serve this "
            "call."
        )
    return family.refusal(call)


def _none(call: Call) -> None:
    """The refusal of an API whose callers' paths are its own."""


def _beyond_openai(call: Call) -> GatewayError | None:
    """The refusal of OpenAI: what only Azure understands never goes there. Callers of dated paths do if the path alone
    has to be translated, and the bytes of body and answer stay as they are."""
    operation = call.operation
    if call.surface == "dated" and not operation.on_deployment and operation.family != _SAME_BELOW_DATED:
        return UnknownPath(
            f"/openai/{call.path}?api-version=… works on Azure OpenAI only, and no Azure OpenAI backend can serve this "
            f"call. Use /v1/{call.path}."
        )
    if "data_sources" in call.values:
        return _not_at_openai("data_sources", "Leave it out, and use the tool file_search of /v1/responses.")
    if IMAGE_DEPLOYMENT in call.headers:
        return _not_at_openai(IMAGE_DEPLOYMENT, "Name the model of the image tool in `tools`.")
    return None


def _not_at_openai(param: str, instead: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param} works on Azure OpenAI only, and no Azure OpenAI backend can serve this call. {instead}", param=param
    )


# Not those that name a workspace or a user profile of the backend's account.
ANTHROPIC_HEADERS = ("accept", "anthropic-beta", "anthropic-version", "content-type", "idempotency-key", "traceparent")

APIS: dict[Api, ApiFamily] = {
    "azure": ApiFamily(
        name="Azure OpenAI",
        prefix="/openai/v1/",
        dated=True,
        request_id="x-ms-client-request-id",
        headers=None,
        access_errors=frozenset({(404, "DeploymentNotFound")}),
        refusal=_none,
    ),
    "openai": ApiFamily(
        name="OpenAI",
        prefix="/v1/",
        dated=False,
        request_id="x-client-request-id",
        headers=frozenset(("accept", "content-type", "idempotency-key", "openai-beta", "traceparent", "tracestate")),
        # No credit is left: a wait of seconds would not help, as it does for other errors with status 429.
        access_errors=frozenset(
            {
                (404, "model_not_found"),
                (429, "insufficient_quota"),
                (429, "billing_not_active"),
                (429, "billing_hard_limit_reached"),
                (400, "billing_hard_limit_reached"),
            }
        ),
        refusal=_beyond_openai,
    ),
    "anthropic": ApiFamily(
        name="Anthropic",
        prefix="/v1/",
        dated=False,
        request_id="x-client-request-id",
        headers=frozenset(ANTHROPIC_HEADERS),
        access_errors=frozenset(),  # its errors have no codes
        refusal=_none,
    ),
}
