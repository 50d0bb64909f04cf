"""The id of a request in every log line of its task."""

from contextvars import ContextVar

current_request: ContextVar[str] = ContextVar("request id", default="")


def identified(message: str) -> str:
    """A log message that names the request whose task logs it, if it does not yet. JSON stays JSON."""
    request_id = current_request.get()
    if not request_id or request_id in message:
        return message
    if message.startswith('{"'):
        return f'{{"request":"{request_id}",{message[1:]}'
    return f"{request_id}: {message}"
