"""The gateway's own paths, as a table: each is one line of `_PATHS`, opened by the management key or by a caller's own.

A question's answer is a value for JSON, or a `Document`.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.billing import report as usage_report
from shared.billing.charges import Tariff
from shared.config.document import Configuration
from shared.errors import ConsumerNotFound, InvalidApiKey, InvalidRequest, MethodNotAllowed, UnknownPath
from shared.limits import report as limits_report
from shared.limits import scopes as allowances
from shared.limits.limiter import Limiter
from shared.routing.report import BackendsReport
from shared.storage import Store
from shared.types import Consumer

_ROOT = "/gateway/"


class ManagementRequest(msgspec.Struct, frozen=True):
    """`parameters` come from the path, `query` from what follows it. `asker`: the caller whose own key opened the path;
    None where the management key did."""

    parameters: Mapping[str, str]
    query: Mapping[str, str]
    asker: Consumer | None = None


class Document(msgspec.Struct, frozen=True):
    """An answer that is no JSON."""

    text: str
    media_type: str


class ManagementApi:
    """Answers the operator, and callers about themselves. `key` None: no operator may ask."""

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        limiter: Limiter,
        authenticator: Authenticator,
        backends: BackendsReport,
        key: str | None,
    ) -> None:
        self._store = store
        self._configuration = configuration
        self._limiter = limiter
        self._authenticator = authenticator
        self._backends = backends
        self._key = key
        self._tariff = Tariff.of(configuration)

    @staticmethod
    def owns(path: str) -> bool:
        return path.startswith(_ROOT) and path.split("/", 3)[2] in _NAMES

    async def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], address: str) -> Any:
        """What is to be told. Raises `GatewayError`."""
        found = _find(path)
        if found is None:
            self._authorize(headers)  # strangers learn nothing of what is here
            raise UnknownPath(f"{path[:200]} is not a path of this gateway.")
        known, parameters = found
        asker = None
        if known.own:
            asker = await self._authenticator.authenticate(headers, address)
        else:
            self._authorize(headers)
        if method != "GET":
            raise MethodNotAllowed(f"{method} is not a method of {path[:200]}; use GET.", "GET")
        return await known.answer(self, ManagementRequest(parameters, _parameters(query), asker))

    async def limits(self, question: ManagementRequest) -> Any:
        """What is left of every limit, and how this instance is doing."""
        _refuse_unknown(question.query)
        records = await Consumers(self._store).all()
        scopes = allowances.of_all((record.consumer for record in records), self._configuration)
        lines = await limits_report.report(self._store, scopes)
        return {**self._limiter.state(), "limits": lines}

    async def backends(self, question: ManagementRequest) -> Any:
        """How every backend is doing, as this instance sees it and as the instances tell each other."""
        _refuse_unknown(question.query)
        return await self._backends.report()

    async def limits_of(self, question: ManagementRequest) -> Any:
        """The same of one consumer."""
        _refuse_unknown(question.query)
        consumer_id = question.parameters["consumer"]
        record = await Consumers(self._store).find(consumer_id) if consumer_id.isalnum() else None
        if record is None:
            raise ConsumerNotFound(f"There is no consumer with the id {consumer_id[:64]!r}.")
        lines = await limits_report.report(self._store, allowances.of_all((record.consumer,), self._configuration))
        return {"id": record.consumer.id, "name": record.consumer.name, "limits": lines}

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Whether these are the operator's."""
        try:
            self._authorize(headers)
        except InvalidApiKey:
            return False
        return True

    async def usage(self, question: ManagementRequest) -> Any:
        """Who used what, and what it cost."""
        names = {record.consumer.id: record.consumer.name for record in await Consumers(self._store).all()}
        return await self._usage(question.query, "key", names)

    async def own_usage(self, question: ManagementRequest) -> Any:
        """The same of the caller who asks."""
        asker = question.asker
        assert asker is not None
        if "key" in question.query:
            raise InvalidRequest("key is no parameter here: the answer is about the key that asks.", param="key")
        return await self._usage({**question.query, "key": asker.id}, "model", {asker.id: asker.name})

    async def _usage(self, query: Mapping[str, str], by: str, names: Mapping[str, str]) -> Any:
        _refuse_unknown(query, *usage_report.PARAMETERS)
        if (form := query.get("format", "json")) not in ("json", "csv"):
            raise InvalidRequest(f"format: expected json or csv, got {form[:64]!r}.", param="format")
        asked = usage_report.question(query, self._store.now(), by=by)
        report = await usage_report.report(self._store, self._tariff, asked)
        if form == "csv":
            return Document(usage_report.as_csv(report.heads(), report.rows(names)), "text/csv")
        return {
            "since": f"{asked.since:%Y-%m-%dT%H:%MZ}",
            "until": f"{asked.until:%Y-%m-%dT%H:%MZ}",
            "lines": report.rows(names),
            "total": report.totals(),
        }

    def _authorize(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
        if not self._key or not hmac.compare_digest(given.encode(), self._key.encode()):
            raise InvalidApiKey("The management key is missing or wrong: send it as Authorization: Bearer KEY.")


class _Path(NamedTuple):
    """`{name}` stands for one segment. `own`: a caller's own key opens it, and it tells of that caller alone."""

    pattern: str
    answer: Callable[[ManagementApi, ManagementRequest], Awaitable[Any]]
    own: bool = False


_PATHS = (  # the first that fits answers
    _Path("backends", ManagementApi.backends),
    _Path("limits", ManagementApi.limits),
    _Path("limits/{consumer}", ManagementApi.limits_of),
    _Path("usage", ManagementApi.usage),
    _Path("usage/me", ManagementApi.own_usage, own=True),
)
_NAMES = frozenset(known.pattern.partition("/")[0] for known in _PATHS)


def _find(path: str) -> tuple[_Path, dict[str, str]] | None:
    segments = path.removeprefix(_ROOT).removesuffix("/").split("/")
    for known in _PATHS:
        parts = known.pattern.split("/")
        if len(parts) == len(segments) and all(
            part == segment or (part.startswith("{") and segment) for part, segment in zip(parts, segments, strict=True)
        ):
            pairs = zip(parts, segments, strict=True)
            return known, {part[1:-1]: segment for part, segment in pairs if part.startswith("{")}
    return None


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise InvalidRequest(f"The parameter {name[:64]!r} stands twice in the query.", param=name[:64])
        found[name] = value
    return found


def _refuse_unknown(query: Mapping[str, str], *known: str) -> None:
    for name in query:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise InvalidRequest(f"{name[:64]!r} is no parameter here; expected: {expected}.", param=name[:64])
