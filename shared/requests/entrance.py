"""The first look at a request, whether HTTP or the upgrade to a WebSocket: its headers, its key and its address."""

from starlette.types import Scope

from shared.auth import client_address, query_key
from shared.config.document import Configuration
from shared.errors import AddressNotAllowed
from shared.requests.head import headers_of


class Entrance:
    """Admits requests by one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self._client_address = configuration.client_address
        self._networks = client_address.networks(configuration.allowed_networks)

    def admit(self, scope: Scope, *, from_anywhere: bool = False) -> tuple[dict[str, str], str]:
        """Return the headers, with a key that stood in the query, and the caller's address. The query loses the key.
        Raises `AddressNotAllowed`."""
        headers = headers_of(scope["headers"])  # a dict: Starlette's own search the raw list on every access
        if scope["query_string"]:
            scope["query_string"], key = query_key.parted(scope["query_string"])
            if key:
                headers.setdefault(query_key.HEADER, key)
        address = client_address.of_client(scope, self._client_address)
        if self._networks and not from_anywhere and not client_address.within(address, self._networks):
            raise AddressNotAllowed(
                f"This gateway accepts calls from certain networks only; {address or 'an unknown address'} is outside "
                "them. Call it from inside, or ask its operator."
            )
        return headers, address
