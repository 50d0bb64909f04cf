"""The time that one attempt may take."""

import asyncio
import contextlib
import math

_ROUNDING = 0.001  # seconds


class AttemptTimeout:
    """The time that an attempt has until its answer is committed. A faster attempt of the same call ends it early.

    `call_ends`: the latest end of the whole call, on the event loop's clock. `watched`: somebody looks at the attempt
    before its time is over, and starts the timer then; most attempts end without one.
    """

    def __init__(self, seconds: float, *, call_ends: float = math.inf, watched: bool = False) -> None:
        self.seconds = seconds
        self.call_ends = call_ends
        self._until = in_seconds(seconds)
        self.timer = asyncio.timeout_at(None if watched else self._until)
        self.sent_at: float | None = None  # the time at which the end of an upload was sent, on the event loop's clock
        self.written = False  # a part of its request has gone out: from then on its backend may charge for it
        self.superseded = False
        self.hung = False  # superseded because its target seems to answer nobody, which is a fault
        self.late = False  # another attempt has answered the call, and this one goes on for its usage alone

    @property
    def ends_with_call(self) -> bool:
        """True if its end is the one that the caller set for the whole call: how late it is says nothing about the
        target."""
        return self._until >= self.call_ends - _ROUNDING

    def restart(self, seconds: float) -> None:
        """Give an attempt that is not over this time from now on."""
        with contextlib.suppress(RuntimeError):
            self.timer.reschedule(in_seconds(seconds))

    def note_written(self) -> None:
        self.written = True

    def request_sent(self) -> None:
        """The whole of an upload has been sent: the time for its answer starts."""
        self.sent_at = asyncio.get_running_loop().time()
        self.restart(self.seconds)

    def start(self) -> None:
        """Start the timer of a watched attempt, unless it runs already."""
        if self.timer.when() is None:
            try:
                self.timer.reschedule(self._until)
            except RuntimeError:  # the attempt has not begun yet, or is over
                self.timer = asyncio.timeout_at(self._until)

    def move(self) -> None:
        """End the attempt because its target answers nobody."""
        self.supersede(hung=True)

    def supersede(self, *, hung: bool) -> None:
        """End the attempt because another one has the answer. Does nothing before it has begun or after its end."""
        with contextlib.suppress(RuntimeError):
            self.timer.reschedule(asyncio.get_running_loop().time())
            self.superseded, self.hung = True, hung


def in_seconds(seconds: float) -> float:
    """Return a time from now on the event loop's clock."""
    return asyncio.get_running_loop().time() + seconds
