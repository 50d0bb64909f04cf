"""Keeps a connection alive while the backends are silent."""

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.errors import GatewayError
from shared.requests.disconnect import CallerDisconnected
from shared.responses.relay import RelayedResponse
from shared.responses.rendering import KEEP_ALIVE_COMMENT, ErrorResponse, error_object, send_error_event, send_part
from shared.types import Operation


class KeepAliveResponse(Response):
    """An event stream that starts with comments, because its backend has been silent for too long.

    `answer` gives the response in the end. The first comment commits status and headers, so an error becomes an event.
    """

    def __init__(
        self,
        answer: asyncio.Future[RelayedResponse | ErrorResponse],
        headers: Mapping[str, str],
        operation: Operation,
        seconds: float,
    ) -> None:
        super().__init__(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        self._answer = answer
        self._operation = operation
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
            response = ErrorResponse(error, {})
        finally:
            self._answer.cancel()
        if isinstance(response, RelayedResponse):
            await response.continue_stream(send)
        else:
            await send_error_event(send, error_object(response.error), self._operation)
