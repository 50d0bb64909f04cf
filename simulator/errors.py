"""Azure's error responses, one function per known body. Source: azure-facts A.5."""

import math
from typing import Any

import msgspec

# msgspec raises separate errors for invalid UTF-8 and for deep nesting.
DECODE_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SEVERITIES = {"hate": "safe", "self_harm": "safe", "sexual": "safe", "violence": "high"}


class AzureError(Exception):
    """An error response. `charged_tokens` are prompt tokens that Azure bills despite the error."""

    def __init__(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None, charged_tokens: int = 0
    ) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = msgspec.json.encode(body)
        self.headers = headers or {}
        self.charged_tokens = charged_tokens


def invalid_request(message: str, param: str | None = None, code: str | None = None) -> AzureError:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return AzureError(400, {"error": error})


def not_json() -> AzureError:
    return invalid_request(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The Azure OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
    )


def invalid_form() -> AzureError:
    return invalid_request("We could not parse the body of your request. A multipart/form-data body is expected.")


def missing_parameter(name: str) -> AzureError:
    return invalid_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def unsupported_parameter(name: str, instead: str = "") -> AzureError:
    advice = f" Use '{instead}' instead." if instead else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{advice}"
    return invalid_request(message, name, "unsupported_parameter")


def unsupported_value(name: str, value: str, only: str = "") -> AzureError:
    """`only`: the default, which is the only value that the model takes."""
    subject, advice = (value, f" Only the default ({only}) value is supported.") if only else (f"'{value}'", "")
    message = f"Unsupported value: '{name}' does not support {subject} with this model.{advice}"
    return invalid_request(message, name, "unsupported_value")


def unrecognized_argument(name: str) -> AzureError:
    return invalid_request(f"Unrecognized request argument supplied: {name}")


def context_length_exceeded(window: int, tokens: int, param: str) -> AzureError:
    return invalid_request(
        f"This model's maximum context length is {window} tokens. However, your {param} resulted in {tokens} tokens. "
        f"Please reduce the length of the {param}.",
        param,
        "context_length_exceeded",
    )


def operation_not_supported(operation: str, model: str) -> AzureError:
    message = (
        f"The {operation} operation does not work with the specified model, {model}. Please choose different model "
        "and try again. You can learn more about which models can be used with each operation here: "
        "https://go.microsoft.com/fwlink/?linkid=2197993."
    )
    return AzureError(400, {"error": {"code": "OperationNotSupported", "message": message}})


def api_version_not_supported() -> AzureError:
    return AzureError(400, {"error": {"code": "BadRequest", "message": "API version not supported"}})


def content_filtered(prompt_tokens: int) -> AzureError:
    """The prompt was rejected; Azure bills its evaluation (azure-facts A.6)."""
    results = {name: {"filtered": level != "safe", "severity": level} for name, level in _SEVERITIES.items()}
    error = {
        "inner_error": {"code": "ResponsibleAIPolicyViolation", "content_filter_results": results},
        "code": "content_filter",
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry. To learn more about our content filtering policies please read our "
        "documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
        "param": "prompt",
        "type": None,
        "status": 400,
    }
    return AzureError(400, {"error": error}, charged_tokens=prompt_tokens)


def invalid_key() -> AzureError:
    message = (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource."
    )
    return AzureError(401, {"error": {"code": "401", "message": message}})


def invalid_token() -> AzureError:
    message = (
        "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), "
        "or have expired."
    )
    return AzureError(401, {"statusCode": 401, "message": message})


def resource_not_found() -> AzureError:
    return AzureError(404, {"error": {"code": "404", "message": "Resource not found"}})


def object_not_found(message: str, param: str | None = None, code: str | None = None) -> AzureError:
    """Unknown id; the object may exist in another resource."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return AzureError(404, {"error": error})


def model_not_found(name: str) -> AzureError:
    message = f"The specified base model does not exist: {name}"
    return AzureError(404, {"error": {"code": "ResourceNotFound", "message": message}})


def deployment_not_found() -> AzureError:
    message = (
        "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
        "please wait a moment and try again."
    )
    return AzureError(
        404, {"error": {"type": "invalid_request_error", "code": "DeploymentNotFound", "message": message}}
    )


def payload_too_large(limit: int) -> AzureError:
    message = f"The request body is larger than the limit of {limit} bytes."
    return AzureError(413, {"error": {"code": "RequestEntityTooLarge", "message": message}})


def too_many_headers(count: int, limit: int) -> AzureError:
    message = f"The request has {count} custom headers; the maximum is {limit}."
    return AzureError(431, {"error": {"code": "431", "message": message}})


def rate_limited(
    *, deployment: str, model: str, region: str, operation: str, api_version: str, what: str, retry_after: float
) -> AzureError:
    """`what` is "token" or "call". The headers give the wait in milliseconds and, rounded up, in seconds."""
    milliseconds = max(1, math.ceil(retry_after * 1_000))
    seconds = math.ceil(milliseconds / 1_000)
    message = (
        f"Your requests to {deployment} for {model} in {region} have exceeded the {what} rate limit for your current "
        f"AIServices S0 pricing tier. This request was for {operation} under Azure OpenAI API version {api_version}. "
        f"Please retry after {seconds} seconds."
    )
    headers = {"retry-after": str(seconds), "retry-after-ms": str(milliseconds)}
    return AzureError(429, {"error": {"code": "RateLimitReached", "message": message}}, headers)


def server_error(status: int) -> AzureError:
    message = "The server had an error processing your request. Sorry about that! You can retry your request."
    return AzureError(status, {"error": {"message": message, "type": "server_error", "param": None, "code": None}})
