"""One attempt at a call: the ways it can fail, and the time it may take."""

import asyncio
import contextlib

from shared.forwarding.response import UpstreamResponse


class AttemptFailed(Exception):
    """A try that another target may better. `answer`: what the backend said, if it said something; `wait`: seconds it
    asked for. `spilled_to`: the deployment that Azure itself asked instead, in vain; "?" where it does not tell which.
    `charged`: it has read the prompt, and charges for that. Azure does for what timed out or broke off,
    not for 429 and 5xx.
    """

    def __init__(
        self,
        problem: str,
        status: int = 0,
        answer: UpstreamResponse | None = None,
        wait: float | None = None,
        spilled_to: str = "",
        charged: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status
        self.answer = answer
        self.wait = wait
        self.spilled_to = spilled_to
        self.charged = charged


class Throttled(AttemptFailed):
    """429."""


class Disconnected(AttemptFailed):
    """The connection broke without a byte of an answer: it may have been closed while nobody used it."""


class TimedOut(AttemptFailed):
    """No answer within the time for it."""


class Superseded(AttemptFailed):
    """Another try of the same call was faster."""


class InvalidAnswer(AttemptFailed):
    """An answer that is none."""


class AttemptTimeout:
    """How long a try may take until it is committed. It may be ended before, when another try has the answer.

    `watched`: somebody looks at the try before its time is over, and starts the timer then, which most tries never
    need."""

    def __init__(self, seconds: float, *, watched: bool = False) -> None:
        self.seconds = seconds
        self._until = in_seconds(seconds)
        self.timer = asyncio.timeout_at(None if watched else self._until)
        self.beaten = False
        self.silent = False  # beaten because its target seems to hang, which is a fault

    def restart(self, seconds: float) -> None:
        """The time runs from now on, where the try is not over."""
        with contextlib.suppress(RuntimeError):
            self.timer.reschedule(in_seconds(seconds))

    def start(self) -> None:
        """Start the timer of a try that was watched so far, where it does not run already."""
        if self.timer.when() is None:
            try:
                self.timer.reschedule(self._until)
            except RuntimeError:  # the try has not begun yet, or is over
                self.timer = asyncio.timeout_at(self._until)

    def end(self, *, silent: bool) -> None:
        """Another try has the answer. One that has not begun yet, or is over, is let be."""
        with contextlib.suppress(RuntimeError):
            self.timer.reschedule(asyncio.get_running_loop().time())
            self.beaten, self.silent = True, silent


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
