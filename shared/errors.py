"""All error responses, as one hierarchy by status, and the errors of a start. `responses/rendering.py` alone turns a
`GatewayError` into HTTP; what each code means to callers, and what to do, is in `docs/troubleshoot.md`. Internal
exceptions, such as `CallerDisconnected`, are in the module that raises them."""

from collections.abc import Mapping
from typing import NamedTuple, Self


class Complaint(NamedTuple):
    """Something wrong in the configuration or the environment. `path`: of the key, "" if there is none. `message`: what
    was expected, without any secret. `source`: the name of the document, as far as it is known."""

    path: str
    message: str
    source: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.source, self.path, self.message)))


class ConfigurationError(Exception):
    """The configuration or the environment is wrong: it stops the start, and no caller sees it. Its text has one
    complaint per line."""

    def __init__(self, *complaints: Complaint | str) -> None:
        self.complaints = tuple(one if isinstance(one, Complaint) else Complaint("", one) for one in complaints)
        super().__init__("\n".join(map(str, self.complaints)))


class CredentialUnavailable(Exception):
    """The identity got no token: the attempt on a backend, or the operation on the store, fails. The message says what
    to do, and callers may see it. `details`: the reason in the words of the service, which name tenants, clients and
    endpoints: for operators alone."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details or message


class GatewayError(Exception):
    """An error response. `message` is for the person who reads it and holds no secret.

    `type` follows OpenAI's vocabulary, so that the official clients raise their typed exceptions by status.
    `retry_after`: seconds after which the same call may succeed; None: the caller has to change something. `value`: of
    the response header `header`, which some kinds have.
    """

    status = 500
    code = "internal_error"
    retry_after: float | None = None
    header = ""
    value = ""
    complaints: tuple[Complaint, ...] = ()  # each stands in the response beside the error

    def __init_subclass__(
        cls, *, status: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        """Declare a kind of error. What is not given is its base's."""
        attributes = {"status": status, "code": code, "retry_after": retry_after}
        for name, value in attributes.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(
        self,
        message: str,
        value: str = "",
        limits: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.value = value or self.value
        self.param = param
        self.limits = limits or {}  # headers with the caller's limits, if they are known
        self.consumer = ""  # the id of the refused consumer and its model, as far as they are known
        self.model = ""
        self.on_record = False  # True if the refused call is in the ledger already
        if code is not None:
            self.code = code

    @property
    def type(self) -> str:
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def headers(self) -> dict[str, str]:
        """Response headers of this error. Clients read the wait in milliseconds or, rounded up, in seconds."""
        if self.retry_after is None:
            return {self.header: self.value} if self.value else {}
        milliseconds = max(1, round(self.retry_after * 1000))
        return {"retry-after": str(-(-milliseconds // 1000)), "retry-after-ms": str(milliseconds)}


class InvalidRequest(GatewayError, status=400, code="invalid_request"):
    @classmethod
    def of(cls, field: str, expected: str, got: object) -> Self:
        """A field or a parameter with another value than was expected."""
        return cls(f"{field}: expected {expected}, got {str(got)[:64]!r}.", param=field)


class ConfigurationRefused(InvalidRequest, code="configuration_refused"):
    """A configuration that an operator sent and that cannot be used."""

    def __init__(self, error: ConfigurationError) -> None:
        self.complaints = error.complaints
        counted = "one complaint" if len(self.complaints) == 1 else f"{len(self.complaints)} complaints"
        super().__init__(f"The configuration is refused with {counted}: {'; '.join(map(str, self.complaints))[:2000]}")


class InvalidApiKey(GatewayError, status=401, code="invalid_api_key"):
    header, value = "www-authenticate", 'Bearer realm="tollgate"'


class ModelNotAllowed(GatewayError, status=403, code="model_not_allowed"): ...


class CallerNotAllowed(GatewayError, status=403, code="caller_not_allowed"):
    """A valid token of a caller whom no rule admits, or who was revoked. No 401, because a new token would not help."""


class ProductNotAllowed(GatewayError, status=403, code="product_not_allowed"):
    """The caller names a product without a subscription, or has no subscription in force."""


class RoleRequired(GatewayError, status=403, code="role_required"):
    """An operator without the role that a path of the management API needs."""


class AddressNotAllowed(GatewayError, status=403, code="address_not_allowed"): ...


class RegionNotAllowed(GatewayError, status=403, code="region_not_allowed"): ...


class PinNotAllowed(GatewayError, status=403, code="pin_not_allowed"): ...


class WholeAccountNotAllowed(GatewayError, status=403, code="whole_account_not_allowed"): ...


class UnmeteredOperation(GatewayError, status=403, code="unmetered_operation"): ...


class QuotaExceeded(GatewayError, status=403, code="quota_exceeded"):
    """The quota of a period is used up. `value`: start of the next period, in ISO 8601."""

    type = "insufficient_quota"
    header = "x-gateway-quota-renews"


class BudgetExceeded(QuotaExceeded, code="budget_exceeded"): ...


class ModelWithoutPrice(GatewayError, status=403, code="model_without_price"):
    """A budget cannot count the calls of this model, and the configuration refuses such calls."""


class ModelNotFound(GatewayError, status=404, code="model_not_found"): ...


class UnknownPath(GatewayError, status=404, code="unknown_path"): ...


class StateNotFound(GatewayError, status=404, code="not_found"):
    """Also raised for another consumer's object: its existence is not revealed."""


class ConsumerNotFound(GatewayError, status=404, code="consumer_not_found"): ...


class VersionNotFound(GatewayError, status=404, code="version_not_found"): ...


class ResourceNotFound(GatewayError, status=404, code="resource_not_found"):
    """Management API: there is no product, team, backend or request of this name."""


class MethodNotAllowed(GatewayError, status=405, code="method_not_allowed"):
    """`value`: the methods that the path has."""

    header = "allow"


class RequestTimeout(GatewayError, status=408, code="request_timeout"): ...


class StateConflict(GatewayError, status=409, code="state_in_several_backends"): ...


class NameTaken(GatewayError, status=409, code="name_taken"): ...


class StillNeeded(GatewayError, status=409, code="still_needed"):
    """Management API: something depends on what is to be taken away. The same request with `force=true` does it."""


class AlreadyDecided(GatewayError, status=409, code="already_decided"):
    """A request for access that another operator has decided, or is deciding."""


class ChangedMeanwhile(GatewayError, status=412, code="precondition_failed"):
    """The resource does not have the ETag that the request demands. `value`: the one that it has, if it is known."""

    header = "etag"


class RequestTooLarge(GatewayError, status=413, code="request_too_large"): ...


class UnsupportedEncoding(GatewayError, status=415, code="unsupported_encoding"):
    """`value`: the values of `content-encoding` that are decoded."""

    header = "accept-encoding"


class UpgradeRequired(GatewayError, status=426, code="websockets_not_supported"):
    """A WebSocket where the same call works over HTTP: agents fall back to that at once on this status alone."""

    header, value = "upgrade", "HTTP/1.1"


class RateLimitExceeded(GatewayError, status=429, code="rate_limit_exceeded"):
    """`retry_after` is the exact wait."""

    retry_after: float
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after: float, limits: Mapping[str, str] | None = None) -> None:
        super().__init__(message, limits=limits)
        self.retry_after = retry_after


class HeadTooLarge(GatewayError, status=431, code="head_too_large"): ...


class NotSupported(GatewayError, status=501, code="websockets_not_supported"):
    type = "invalid_request_error"


class BadGateway(GatewayError, status=502, code="bad_gateway", retry_after=1.0): ...


class AnswerTooLarge(GatewayError, status=502, code="answer_too_large", retry_after=1.0):
    """The answer of a backend, which is charged, cannot be held. Official clients do not pay for another by themselves:
    they read `x-should-retry`."""

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "x-should-retry": "false"}


class GatewayBusy(GatewayError, status=503, code="gateway_busy", retry_after=1.0):
    """The process holds as many bytes of unfinished bodies as it may."""


class NoBackendAvailable(GatewayError, status=503, code="no_backend_available", retry_after=2.0): ...


class TooManyConnections(GatewayError, status=503, code="too_many_connections", retry_after=1.0): ...


class StateUnavailable(GatewayError, status=503, code="state_unavailable", retry_after=2.0):
    """The only backend that holds an object of the call cannot serve it."""


class StoreUnavailable(GatewayError, status=503, code="store_unavailable", retry_after=2.0):
    """Table Storage did not answer in time, or rejected the operation. Callers never see it as a 401."""


class RowsRefused(StoreUnavailable):
    """Table Storage answers, and will never take these rows: their content is at fault."""


class IdentityUnavailable(GatewayError, status=503, code="identity_unavailable", retry_after=2.0):
    """Entra ID's signing keys cannot be read, so a token can be neither accepted nor rejected."""


class Misconfigured(GatewayError, status=503, code="misconfigured", retry_after=30.0):
    """The gateway runs without a configuration. Callers do not see the reason."""


class UpstreamTimeout(GatewayError, status=504, code="upstream_timeout", retry_after=1.0): ...
