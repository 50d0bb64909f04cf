"""The consumers of identities: callers with tokens of Entra ID, whom a rule of the configuration admits."""

import copy
import logging
from collections.abc import Callable, Sequence

import msgspec

from shared.auth._freshness import REFRESH_AFTER
from shared.auth._jwt import Identity
from shared.auth._records import Records
from shared.auth.caller_rules import granted, rule_for
from shared.auth.consumer_rows import Record
from shared.auth.consumers import Consumers
from shared.concurrency import LruDict, Tasks
from shared.config.callers import CallerRule
from shared.errors import CallerNotAllowed, StoreUnavailable
from shared.types import Consumer

logger = logging.getLogger("tollgate.authentication")

_MOST_IDENTITIES = 50_000
_MOST_WARNED = 10_000
_GROUPS_MISSING = (
    "the token leaves them out because there are too many. Use app roles in the rules, or have the application's "
    "tokens list only the groups that are assigned to it"
)


class _Granted(msgspec.Struct, frozen=True):
    """The consumer of an identity, as computed for a record."""

    rule: CallerRule
    record: Record | None
    consumer: Consumer


class Identities:
    """The consumers of identities. Their rows are written with the first call, which does not wait for it: if that
    fails, calls pass, and the next one after 30 s writes it. Until then nobody can revoke the identity alone."""

    def __init__(
        self, consumers: Consumers, records: Records, wall_clock: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._consumers = consumers
        self._wall_clock = wall_clock
        self._records = records
        self._rules: Sequence[CallerRule] = ()
        self._clock = clock
        self._granted: LruDict[Identity, _Granted] = LruDict(_MOST_IDENTITIES)
        self._register_at: LruDict[str, float] = LruDict(_MOST_IDENTITIES)
        self._warned: LruDict[str, None] = LruDict(_MOST_WARNED)
        self._registrations = Tasks()

    def with_rules(self, rules: Sequence[CallerRule]) -> "Identities":
        other = copy.copy(self)
        other._rules, other._granted = rules, LruDict(_MOST_IDENTITIES)
        return other

    async def consumer(self, identity: Identity) -> Consumer:
        """Raises `CallerNotAllowed` and `StoreUnavailable`."""
        rule = rule_for(identity, self._rules) if (known := self._granted.get(identity)) is None else known.rule
        if rule is None:
            raise self._refusal(identity)
        record = await self._records.get(identity.consumer_id)
        if record is None:
            self._register(identity)
        elif (state := record.state_at(self._wall_clock())) != "active":
            ended = "was revoked" if state == "revoked" else "has expired"
            raise CallerNotAllowed(f"The access of {record.consumer.name} {ended}. Ask the gateway's operator.")
        if known is None or known.record is not record:
            consumer = granted(identity, rule, record.consumer if record is not None else None)
            known = self._granted[identity] = _Granted(rule, record, consumer)
            self._warn_of_groups(identity)
        return known.consumer

    async def close(self) -> None:
        await self._registrations.finish(1.0)

    def _refusal(self, identity: Identity) -> CallerNotAllowed:
        self._warn_of_groups(identity)
        groups = f" Its groups are not known: {_GROUPS_MISSING}." if self._lacks_groups(identity) else ""
        return CallerNotAllowed(
            f"No rule of this gateway admits {identity.name}.{groups} Ask the gateway's operator for access."
        )

    def _warn_of_groups(self, identity: Identity) -> None:
        """Warn, once per caller, that no rule for a group can match because the caller's groups are not known."""
        if self._lacks_groups(identity) and identity.consumer_id not in self._warned:
            self._warned[identity.consumer_id] = None
            logger.warning("the groups of %s are not known: %s", identity.consumer_id, _GROUPS_MISSING)

    def _lacks_groups(self, identity: Identity) -> bool:
        return identity.groups_missing and any(rule.group is not None for rule in self._rules)

    def _register(self, identity: Identity) -> None:
        now = self._clock()
        if now >= self._register_at.get(identity.consumer_id, now):
            self._register_at[identity.consumer_id] = now + REFRESH_AFTER
            self._registrations.start(self._write(identity))

    async def _write(self, identity: Identity) -> None:
        try:
            await self._consumers.register(identity)
        except StoreUnavailable as error:
            logger.warning("cannot write the row of the consumer %s yet: %s", identity.consumer_id, error)
        else:
            self._records.read_again(identity.consumer_id)
