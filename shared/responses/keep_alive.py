"""Keeps a connection alive while the backends are silent."""

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.errors import GatewayError
from shared.requests.disconnect import CallerDisconnected
from shared.responses.relay import RelayedResponse
from shared.responses.rendering import KEEP_ALIVE_COMMENT, ErrorResponse, error_body, send_error_event, send_part
from shared.types import Operation

Answer = asyncio.Future[RelayedResponse | ErrorResponse]


def discard(answer: Answer) -> None:
    """Cancel the work on a response that nobody will receive. If it is there already, account for it."""
    answer.cancel()
    answer.add_done_callback(_abandon)


def _abandon(answer: Answer) -> None:
    if not answer.cancelled() and answer.exception() is None and isinstance(late := answer.result(), RelayedResponse):
        late.abandon()


class KeepAliveResponse(Response):
    """An event stream that starts with comments, because its backend has been silent for too long.

    `answer` gives the response in the end. The first comment commits status and headers, so an error becomes an event.
    """

    def __init__(self, answer: Answer, headers: Mapping[str, str], operation: Operation, seconds: float) -> None:
        super().__init__(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        self._answer = answer
        self._operation = operation
        self._request_id = headers.get("x-gateway-request-id", "")
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send_part(send, KEEP_ALIVE_COMMENT)
            while not (await asyncio.wait((self._answer,), timeout=self._seconds))[0]:
                await send_part(send, KEEP_ALIVE_COMMENT)
            response = self._answer.result()
        except CallerDisconnected:
            return
        except GatewayError as error:
            response = ErrorResponse(error, {}, self._operation.format)
        except BaseException:
            discard(self._answer)
            raise
        if isinstance(response, RelayedResponse):
            await response.continue_stream(send)
        else:
            body = error_body(response.error, self._request_id, self._operation.format)
            await send_error_event(send, body, self._operation)
