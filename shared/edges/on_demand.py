"""The application of a process that has no start-up hook, as the worker of the Functions host is."""

import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response

from shared.bootstrap import application
from shared.concurrency import SingleFlight, Tasks
from shared.config import environment
from shared.errors import ConfigurationError
from shared.management.api import without_configuration
from shared.process.application import Application

_TRY_EVERY = 5.0  # seconds between a process's attempts to start with a configuration that cannot be used
_ASK_EVERY = 300.0  # seconds between a process's looks at the last roll-up


class OnDemand:
    """Builds the application with the first request, in its event loop.

    A wrong configuration does not stop the start: the Functions host hides the reason of a failed import, and answers
    404. The reason is printed in one line on stderr instead, and every request gets 503. There is no shutdown hook
    either: the host kills the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._complaints = ""
        self._management_key = environment.management_key(environ)
        try:
            if environment.source(environ).url is None:
                environment.load(environ)
        except ConfigurationError as error:
            self._complain(error)
        self._stack = AsyncExitStack()
        self._application: Application | None = None
        self._building: SingleFlight[str, Application] = SingleFlight()
        self._tasks = Tasks(shared=True)
        self._next_look = self._next_try = 0.0

    async def handle(self, request: Request, traceparent: str) -> Response:
        """Answer a request. `traceparent`: of the host's span."""
        try:
            application = self._application or await self._get()
        except ConfigurationError as error:
            self._complain(error)
            path = request.scope["path"]
            return without_configuration(path, request.headers, self._complaints, self._management_key)
        self._wake_roll_up(application)
        return await application.front.handle(request, traceparent)

    async def roll_up(self) -> None:
        """One pass of the timer's job, unless there is no configuration."""
        try:
            application = await self._get()
        except ConfigurationError as error:
            self._complain(error)
        else:
            await application.roll_up()

    def _complain(self, error: ConfigurationError) -> None:
        """Print the complaints in one line, unless they were the last ones printed."""
        if str(error) != self._complaints:
            self._complaints = str(error)
            print("ERROR: " + " | ".join(self._complaints.splitlines()), file=sys.stderr, flush=True)

    def _wake_roll_up(self, application: Application) -> None:
        """Roll up in the background of calls if the timer does not: it needs the host's storage, and can be off."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _ASK_EVERY
            self._tasks.start(application.attempt_roll_up(only_overdue=True))

    async def _get(self) -> Application:
        """The application of this process. After a failed attempt to build it, a later request tries again.

        Raises `ConfigurationError`."""
        if self._application is None:
            if time.monotonic() < self._next_try:
                raise ConfigurationError(self._complaints)
            self._application = await self._building.run("", self._build)
        return self._application

    async def _build(self) -> Application:
        try:
            return await self._stack.enter_async_context(application(self._environ))
        except ConfigurationError:
            self._next_try = time.monotonic() + _TRY_EVERY
            raise
