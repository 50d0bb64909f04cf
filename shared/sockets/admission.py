"""The admission of connections and of the responses on them: credentials, and what the limits hold; and the stages
that they share with calls."""

from collections.abc import Mapping
from typing import NamedTuple

from shared.accounting import Accounting
from shared.affinity.directory import ObjectDirectory
from shared.affinity.planner import Planner
from shared.auth import end_users
from shared.auth.authenticator import Authenticator
from shared.auth.products import Subscriptions
from shared.config.document import Configuration
from shared.errors import GatewayError
from shared.forwarding.forwarder import Forwarder
from shared.limits.limiter import Limiter
from shared.limits.reservation import Arrival
from shared.requests.arrival import ReceivedRequest
from shared.requests.buffers import Buffers
from shared.types import Call, Consumer


class Stages(NamedTuple):
    """The stages that connections share with calls."""

    planner: Planner
    forwarder: Forwarder
    accounting: Accounting
    directory: ObjectDirectory
    buffers: Buffers


class AdmittedConnection(NamedTuple):
    """A connection that its limits allow. `held`: its slots and its request. `headers`: of its upgrade."""

    received: ReceivedRequest
    consumer: Consumer
    call: Call
    headers: Mapping[str, str]
    address: str
    held: Arrival


class SocketAdmission:
    """One per configuration."""

    def __init__(self, authenticator: Authenticator, limiter: Limiter, configuration: Configuration) -> None:
        self._authenticator = authenticator
        self._subscriptions = Subscriptions(configuration)
        self._end_users = configuration.end_users
        self._configuration = configuration
        self.limiter = limiter

    async def arrive(self, address: str) -> Arrival:
        """Admit an upgrade at the limits of its client address. Raises `GatewayError`."""
        return await self.limiter.admit(address) if self.limiter.limits_addresses else Arrival((), ())

    async def consumer(self, headers: Mapping[str, str], address: str) -> Consumer:
        """Return the consumer who opens a connection. Raises `GatewayError`."""
        return self._subscriptions.effective(await self._authenticator.authenticate(headers, address))

    async def again(self, headers: Mapping[str, str], address: str) -> Consumer | None:
        """Return the consumer as it is now; None if that cannot be found out. Raises `GatewayError` if the credentials
        of the connection are not valid any more."""
        try:
            return await self.consumer(headers, address)
        except GatewayError as error:
            if error.status >= 500:
                return None
            raise

    def known(self, model: str) -> str:
        """The configured name of a model for sums; "" for a name that a caller has made up."""
        return self._configuration.canonical(model) if model in self._configuration.callable_names else ""

    def of_user(self, call: Call, consumer: Consumer, headers: Mapping[str, str]) -> Call:
        """The call with the label of its user."""
        return end_users.named(call, consumer, headers, self._end_users)
