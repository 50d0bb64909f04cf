"""All errors that cross packages, as one hierarchy by status. `responses/rendering.py` alone turns a `GatewayError`
into HTTP; what each code means to callers, and what to do, is in `docs/troubleshoot.md`."""

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


class InvalidRequest(GatewayError):
    status, code = 400, "invalid_request"

    @classmethod
    def of(cls, field: str, expected: str, got: object) -> Self:
        """A field or a parameter with another value than was expected."""
        return cls(f"{field}: expected {expected}, got {str(got)[:64]!r}.", param=field)


class ConfigurationRefused(InvalidRequest):
    """A configuration that an operator sent and that cannot be used."""

    code = "configuration_refused"

    def __init__(self, error: ConfigurationError) -> None:
        self.complaints = error.complaints
        counted = "one complaint" if len(self.complaints) == 1 else f"{len(self.complaints)} complaints"
        super().__init__(f"The configuration is refused with {counted}: {'; '.join(map(str, self.complaints))[:2000]}")


class InvalidApiKey(GatewayError):
    status, code = 401, "invalid_api_key"
    header, value = "www-authenticate", 'Bearer realm="tollgate"'


class ModelNotAllowed(GatewayError):
    status, code = 403, "model_not_allowed"


class CallerNotAllowed(GatewayError):
    """A valid token of a caller whom no rule admits, or who was revoked. No 401, because a new token would not help."""

    status, code = 403, "caller_not_allowed"


class ProductNotAllowed(GatewayError):
    """The caller names a product without a subscription, or none of its subscriptions is in force."""

    status, code = 403, "product_not_allowed"


class RoleRequired(GatewayError):
    """An operator without the role that a path of the management API needs."""

    status, code = 403, "role_required"


class AddressNotAllowed(GatewayError):
    status, code = 403, "address_not_allowed"


class RegionNotAllowed(GatewayError):
    status, code = 403, "region_not_allowed"


class PinNotAllowed(GatewayError):
    status, code = 403, "pin_not_allowed"


class WholeAccountNotAllowed(GatewayError):
    status, code = 403, "whole_account_not_allowed"


class UnmeteredOperation(GatewayError):
    status, code = 403, "unmetered_operation"


class QuotaExceeded(GatewayError):
    """The quota of a period is used up. `value`: start of the next period, in ISO 8601."""

    status, code, type = 403, "quota_exceeded", "insufficient_quota"
    header = "x-gateway-quota-renews"


class BudgetExceeded(QuotaExceeded):
    code = "budget_exceeded"


class ModelWithoutPrice(GatewayError):
    """A budget cannot count the calls of this model, and the configuration refuses such calls."""

    status, code = 403, "model_without_price"


class ModelNotFound(GatewayError):
    status, code = 404, "model_not_found"


class UnknownPath(GatewayError):
    status, code = 404, "unknown_path"


class StateNotFound(GatewayError):
    """Also raised for another consumer's object: its existence is not revealed."""

    status, code = 404, "not_found"


class ConsumerNotFound(GatewayError):
    status, code = 404, "consumer_not_found"


class VersionNotFound(GatewayError):
    status, code = 404, "version_not_found"


class ResourceNotFound(GatewayError):
    """Management API: there is no product, team, backend or request of this name."""

    status, code = 404, "resource_not_found"


class MethodNotAllowed(GatewayError):
    """`value`: the methods that the path has."""

    status, code = 405, "method_not_allowed"
    header = "allow"


class RequestTimeout(GatewayError):
    status, code = 408, "request_timeout"


class StateConflict(GatewayError):
    status, code = 409, "state_in_several_backends"


class NameTaken(GatewayError):
    status, code = 409, "name_taken"


class StillNeeded(GatewayError):
    """Management API: something depends on what is to be taken away. The same request with `force=true` does it."""

    status, code = 409, "still_needed"


class AlreadyDecided(GatewayError):
    """A request for access that another operator has decided, or is deciding."""

    status, code = 409, "already_decided"


class ChangedMeanwhile(GatewayError):
    """The resource does not have the ETag that the request demands. `value`: the one that it has, if it is known."""

    status, code = 412, "precondition_failed"
    header = "etag"


class RequestTooLarge(GatewayError):
    status, code = 413, "request_too_large"


class UnsupportedEncoding(GatewayError):
    """`value`: the values of `content-encoding` that are decoded."""

    status, code = 415, "unsupported_encoding"
    header = "accept-encoding"


class UpgradeRequired(GatewayError):
    """A WebSocket where the same call works over HTTP: agents fall back to that at once on this status alone."""

    status, code = 426, "websockets_not_supported"
    header, value = "upgrade", "HTTP/1.1"


class RateLimitExceeded(GatewayError):
    """`retry_after` is the exact wait."""

    retry_after: float
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"

    def __init__(self, message: str, retry_after: float, limits: Mapping[str, str] | None = None) -> None:
        super().__init__(message, limits=limits)
        self.retry_after = retry_after


class HeadTooLarge(GatewayError):
    status, code = 431, "head_too_large"


class NotSupported(GatewayError):
    status, code, type = 501, "websockets_not_supported", "invalid_request_error"


class BadGateway(GatewayError):
    status, code, retry_after = 502, "bad_gateway", 1.0


class AnswerTooLarge(GatewayError):
    """The answer of a backend, which is charged, cannot be held. Official clients do not pay for another by themselves:
    they read `x-should-retry`."""

    status, code, retry_after = 502, "answer_too_large", 1.0

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "x-should-retry": "false"}


class GatewayBusy(GatewayError):
    """The process holds as many bytes of unfinished bodies as it may."""

    status, code, retry_after = 503, "gateway_busy", 1.0


class NoBackendAvailable(GatewayError):
    status, code, retry_after = 503, "no_backend_available", 2.0


class TooManyConnections(GatewayError):
    status, code, retry_after = 503, "too_many_connections", 1.0


class StateUnavailable(GatewayError):
    """The only backend that holds an object of the call cannot serve it."""

    status, code, retry_after = 503, "state_unavailable", 2.0


class StoreUnavailable(GatewayError):
    """Table Storage did not answer in time, or rejected the operation. Callers never see it as a 401."""

    status, code, retry_after = 503, "store_unavailable", 2.0


class RowsRefused(StoreUnavailable):
    """Table Storage answers, and will never take these rows: their content is at fault."""


class IdentityUnavailable(GatewayError):
    """Entra ID's signing keys cannot be read, so a token can be neither accepted nor rejected."""

    status, code, retry_after = 503, "identity_unavailable", 2.0


class Misconfigured(GatewayError):
    """The gateway runs without a configuration. Callers are not told the reason."""

    status, code, retry_after = 503, "misconfigured", 30.0


class UpstreamTimeout(GatewayError):
    status, code, retry_after = 504, "upstream_timeout", 1.0
