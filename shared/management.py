"""The management API: `/gateway/limits`. For those who hold the management key; callers' keys do not open it."""

import hmac
from collections.abc import Mapping
from typing import Any

from shared import allowances, limits_report
from shared.config import Configuration
from shared.consumers import Consumers
from shared.errors import GatewayError, InvalidApiKey, MethodNotAllowed, UnknownPath
from shared.limiter import Limiter
from shared.stores import Store

_LIMITS = "/gateway/limits"


class ConsumerNotFound(GatewayError):
    status, code, type = 404, "consumer_not_found", "invalid_request_error"


class Management:
    """Answers the operator. `key` None: nobody may ask."""

    def __init__(self, store: Store, configuration: Configuration, limiter: Limiter, key: str | None) -> None:
        self._store = store
        self._configuration = configuration
        self._limiter = limiter
        self._key = key

    @staticmethod
    def owns(path: str) -> bool:
        return path == _LIMITS or path.startswith(_LIMITS + "/")

    async def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Any:
        """What is to be told, as a value for JSON. Raises `GatewayError`."""
        self._authorize(headers)
        if method != "GET":
            raise MethodNotAllowed(f"{method} is not a method of {path}; use GET.", "GET")
        consumers = Consumers(self._store)
        if path.rstrip("/") == _LIMITS:
            records = await consumers.all()
            scopes = allowances.of_all((record.consumer for record in records), self._configuration)
            lines = await limits_report.report(self._store, scopes)
            return {**self._limiter.state(), "limits": lines}
        consumer_id = path.removeprefix(_LIMITS + "/")
        if "/" in consumer_id:
            raise UnknownPath(f"{path[:200]} is not a path of this gateway.")
        record = await consumers.find(consumer_id) if consumer_id.isalnum() else None
        if record is None:
            raise ConsumerNotFound(f"There is no consumer with the id {consumer_id[:64]!r}.")
        lines = await limits_report.report(self._store, allowances.of_all((record.consumer,), self._configuration))
        return {"id": record.consumer.id, "name": record.consumer.name, "limits": lines}

    def _authorize(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
        if not self._key or not hmac.compare_digest(given.encode(), self._key.encode()):
            raise InvalidApiKey("The management key is missing or wrong: send it as Authorization: Bearer KEY.")
