"""The admission of one call in steps: at its client address before its key is read; with its request and its slot
before its body is waited for; the rest with its body."""

from shared.limits.limiter import Limiter
from shared.limits.reservation import Arrival, Reservation
from shared.types import Call, Consumer


class Admission:
    """One per call."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._arrival: Arrival | None = None
        self._arrived = False
        self.reservation: Reservation | None = None

    async def admit(self, address: str) -> None:
        """Admit a request of this client address. Raises as `Limiter.admit`."""
        if self._limiter.limits_addresses:
            self._arrival = await self._limiter.admit(address)

    async def arrive(self, consumer: Consumer) -> None:
        """Admit a call whose body has to be waited for. Does nothing once it is admitted. Raises as `reserve`."""
        if not self._arrived and self.reservation is None:
            own = await self._limiter.arrive(consumer)
            self._arrival = own if self._arrival is None else self._arrival.plus(own)
            self._arrived = True

    async def reserve(self, consumer: Consumer, call: Call) -> Reservation:
        """Admit the call as a whole. Raises as `Limiter.reserve`."""
        reservation = await self._limiter.reserve(consumer, call, self._arrival)
        self.reservation, self._arrival = reservation, None
        return reservation

    def leave(self) -> None:
        """Give back what was reserved before the call was admitted; from then on its end settles it."""
        if self._arrival is not None:
            self._limiter.depart(self._arrival)
            self._arrival = None
