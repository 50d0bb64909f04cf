"""Walks a policy of API Management, and says what becomes of each of its elements."""

from collections.abc import Callable, Mapping

from shared.cli import _apim_access as access
from shared.cli import _apim_limits as limits
from shared.cli._apim_draft import Draft
from shared.cli._apim_expressions import is_expression, retries_failures
from shared.cli._apim_xml import Element, PolicyUnreadable

_SECTIONS = ("inbound", "backend", "outbound", "on-error")
_OUTER = "the policies of the outer scopes (product, workspace, all APIs): import those as well"
_METRIC = (
    "tokens are always measured: gen_ai.client.token.usage by operation, model and backend; by key, team and user in "
    "the usage records, whose number has no bound"
)
_DIMENSIONS = {
    "api id": "operation",
    "operation id": "operation",
    "subscription id": "usage by key",
    "product id": "usage by product",
    "user id": "usage by user",
    "location": "region",
    "gateway id": "instance",
}
_HINTS = {
    "cache-lookup": "the gateway keeps no answers",
    "log-to-eventhub": "there is a usage row, a span and a log line per call: docs/usage.md, docs/telemetry.md",
    "trace": "there is a span per call: docs/telemetry.md",
    "mock-response": "the simulator answers in place of Azure: make run SIMULATE=1",
    "llm-content-safety": "the gateway has no guardrails",
    "set-body": "bodies pass as they are",
    "rewrite-uri": "the gateway knows the paths of all backends",
    "set-variable": "the gateway runs no expressions",
    "check-header": "a key is always required",
    "return-response": "the gateway makes its own errors, in OpenAI's shape",
    "send-request": "the gateway calls backends, and receivers of alerts",
    "validate-content": "bodies are checked as far as the gateway reads them",
}
Handler = Callable[[Draft, Element], None]
_HANDLERS: Mapping[str, Handler] = {
    "rate-limit": limits.rate,
    "rate-limit-by-key": limits.rate,
    "quota": limits.quota,
    "quota-by-key": limits.quota,
    "azure-openai-token-limit": limits.tokens,
    "llm-token-limit": limits.tokens,
    "ip-filter": access.ip_filter,
    "validate-jwt": access.validate_jwt,
    "validate-azure-ad-token": access.validate_entra_token,
    "cors": access.cors,
    "authentication-managed-identity": access.identity,
    "set-header": access.set_header,
    "set-query-parameter": access.query,
    "forward-request": access.forward,
}
_CONDITIONAL_LIMIT = (
    "depends on a condition, which the gateway does not have: limit the keys, products or users that it selects"
)


def read_into(draft: Draft, root: Element) -> None:
    """Read a whole policy, or a fragment of one. Raises `PolicyUnreadable`."""
    if root.name == "fragment":
        for child in root.children:
            _policy(draft, child, ())
        return
    if root.name != "policies":
        raise PolicyUnreadable(root.line, f"expected <policies> or <fragment>, got <{root.name[:60]}>")
    for section in root.children:
        if section.name not in _SECTIONS:
            draft.drop(section, f"expected one of the sections {', '.join(_SECTIONS)}")
            continue
        for child in section.children:
            _policy(draft, child, (section.name,))


def _policy(draft: Draft, element: Element, inside: tuple[str, ...]) -> None:
    """Read one policy. `inside`: the names of the elements around it."""
    name = element.name
    conditional = "choose" in inside
    if name in ("choose", "when", "otherwise", "wait", "limit-concurrency", "retry"):
        _container(draft, element, inside)
    elif name == "set-backend-service":
        _backend(draft, element, inside)
    elif name.endswith("emit-token-metric"):
        _metric(draft, element)
    elif name == "base":
        draft.todo(element, _OUTER)
    elif inside and inside[0] in ("outbound", "on-error"):
        draft.drop(element, "answers and errors pass as the backend, or the gateway, makes them")
    elif (handler := _HANDLERS.get(name)) is not None:
        if conditional and handler not in (access.identity, access.forward, access.set_header):
            draft.drop(element, _CONDITIONAL_LIMIT)
        else:
            handler(draft, element)
    else:
        hints = (text for start, text in _HINTS.items() if name.startswith(start))
        draft.drop(element, next(hints, "the gateway has nothing like it"))


def _container(draft: Draft, element: Element, inside: tuple[str, ...]) -> None:
    match element.name:
        case "retry":
            _retry(draft, element)
        case "limit-concurrency":
            limits.concurrency(draft, element)
        case "choose" if "retry" not in inside:
            draft.drop(element, "the conditions: all of its backends serve, in turns; limits in it are not taken")
    for child in element.children:
        _policy(draft, child, (*inside, element.name))


def _retry(draft: Draft, element: Element) -> None:
    if not retries_failures(element.get("condition")):
        text = "the condition: the gateway tries again after 408, 429, 5xx, timeouts and broken connections"
        draft.drop(element, text)
    for attribute, key, most in (
        *(("count", "count", 50), ("interval", "interval", 120)),
        *(("delta", "delta", 120), ("max-interval", "max_interval", 120)),
    ):
        text = element.get(attribute)
        if not text:
            continue
        if is_expression(text) or not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= most:
            draft.drop(element, f"{attribute}: expected 1 to {most}, got {text[:60]}")
        else:
            draft.put(element, f"retry.{key}", int(text[:9]))
    if draft.sections.get("retry"):
        text = "another backend is tried at once; the waits are for when all have failed, the first of them is interval"
        draft.differs(element, text)
    if element.get("first-fast-retry").lower() == "true":
        draft.carried(element, "first-fast-retry: failover does not wait")


def _backend(draft: Draft, element: Element, inside: tuple[str, ...]) -> None:
    """A backend; inside of a retry, the one for when the others have failed."""
    address, name = element.get("base-url"), element.get("backend-id")
    if is_expression(address or name) or not (address or name):
        draft.drop(element, f"the backend is decided at run time: {(address or name)[:60]}")
        return
    if name and not address:
        draft.differs(element, f"{name}: if it is a pool, add each of its backends, with priority and weight")
    draft.add_backend(element, address, name, 2 if "retry" in inside or "on-error" in inside else 1)


def _metric(draft: Draft, element: Element) -> None:
    draft.carried(element, _METRIC)
    for dimension in element.children:
        known = _DIMENSIONS.get(dimension.get("name").lower())
        if known is not None:
            draft.carried(dimension, f"{dimension.get('name')}: {known}")
        else:
            draft.drop(dimension, f"{dimension.get('name')}: not a dimension of the metrics")
