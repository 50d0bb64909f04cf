"""The gateway of `make run` under uvicorn (`--factory local.gateway:app`), with one more path: it exchanges the code in
the printed link for the management key. Nothing of it is in `shared/`, so no deployed gateway has it."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from local import sign_in_code
from shared import asgi
from shared.errors import GatewayError, InvalidApiKey, MethodNotAllowed
from shared.responses.rendering import ErrorResponse, JsonResponse

PATH = "/gateway/sign-in/code"
_LONGEST = 1024  # bytes of a body


class SignInLink:
    """A gateway, and the exchange of a code before it."""

    def __init__(self, gateway: ASGIApp, environ: Mapping[str, str]) -> None:
        self._gateway = gateway
        self._file = Path(environ[sign_in_code.FILE])
        self._key = environ["GATEWAY_MANAGEMENT_KEY"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._gateway(scope, receive, send)
            return
        try:
            response = await self._exchange(Request(scope, receive))
        except GatewayError as error:
            response = ErrorResponse(error, {})
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _exchange(self, request: Request) -> Response:
        """The management key for the code. Raises `MethodNotAllowed` and `InvalidApiKey`."""
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.method} is not a method of {PATH}.", "POST")
        if not sign_in_code.claim(self._file, await _code_in(request)):
            raise InvalidApiKey("The code is wrong, used or too old. Start the local run again, or use its key.")
        return JsonResponse({"key": self._key}, headers={"cache-control": "no-store"})


async def _code_in(request: Request) -> str:
    """The code in the body; "" if there is none."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST:
            return ""
    try:
        return msgspec.json.decode(body, type=dict[str, str]).get("code", "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def app() -> SignInLink:
    return SignInLink(asgi.app, os.environ)
