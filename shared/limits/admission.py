"""The admission of one call in two steps: its request and its slot before its body is waited for, the rest with it."""

from shared.limits.limiter import Limiter
from shared.limits.reservation import Arrival, Reservation
from shared.types import Call, Consumer


class Admission:
    """One per call."""

    def __init__(self, limiter: Limiter, consumer: Consumer) -> None:
        self._limiter = limiter
        self._consumer = consumer
        self._arrival: Arrival | None = None
        self.reservation: Reservation | None = None

    async def arrive(self) -> None:
        """Admit a call whose body has to be waited for. Does nothing once it is admitted. Raises as `reserve`."""
        if self._arrival is None and self.reservation is None:
            self._arrival = await self._limiter.arrive(self._consumer)

    async def reserve(self, call: Call) -> Reservation:
        """Admit the call as a whole. Raises as `Limiter.reserve`."""
        reservation = await self._limiter.reserve(self._consumer, call, self._arrival)
        self.reservation, self._arrival = reservation, None
        return reservation

    def leave(self) -> None:
        """Give back what an arrival has reserved. Does nothing once the call is admitted: its end settles it."""
        if self._arrival is not None:
            self._limiter.depart(self._arrival)
            self._arrival = None
