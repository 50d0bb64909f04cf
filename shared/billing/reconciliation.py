"""Compares a day of the ledger with Azure Monitor's counts of the same deployments. Pure.

Azure also counts calls that bypassed the gateway. Its metrics may lag by some minutes and may be revised.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from shared.config.document import Backend
from shared.usage.folds import NOBODY, Lines


class Counted(msgspec.Struct, frozen=True):
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> tuple[int, int]:
        return self.input_tokens, self.output_tokens

    def plus(self, field: str, amount: int) -> "Counted":
        return msgspec.structs.replace(self, **{field: getattr(self, field) + amount})


Metrics = Mapping[tuple[str, str], Counted]  # by resource id in lower case, and deployment


class Difference(msgspec.Struct, frozen=True):
    """A deployment. `azure` is None if its backend has no `resource_id` to query."""

    backends: str
    deployment: str
    ledger: Counted
    azure: Counted | None

    @property
    def percent(self) -> float | None:
        """The difference between the ledger's tokens and Azure's; None if Azure has none."""
        if self.azure is None or not (theirs := sum(self.azure.tokens)):
            return None
        return round(100 * (sum(self.ledger.tokens) - theirs) / theirs, 3)

    @property
    def same(self) -> bool:
        """True if the tokens are the same. Requests may differ, because Azure counts those that it refused."""
        return self.azure is not None and self.ledger.tokens == self.azure.tokens


def compare(lines: Lines, backends: Iterable[Backend], azure: Metrics) -> list[Difference]:
    """Every deployment that is configured or has counts on either side. All attempts count."""
    known = {backend.name: backend for backend in backends}
    names: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    ledger: defaultdict[tuple[str, str], Counted] = defaultdict(Counted)
    for backend in known.values():
        for deployment in backend.deployments.values():
            names[_account(backend), deployment].add(backend.name)
    for line, counts in lines.items():
        if line.backend == NOBODY:
            continue
        configured = known.get(line.backend)
        key = (_account(configured) if configured else line.backend, line.deployment)
        names[key].add(line.backend)
        ledger[key] = Counted(
            ledger[key].requests + counts.requests + counts.charges,
            ledger[key].input_tokens + counts.input_tokens,
            ledger[key].output_tokens + counts.output_tokens,
        )
    for key in azure:
        names[key] |= {name for (account, _), of in list(names.items()) if account == key[0] for name in of}
    return [
        Difference(",".join(sorted(names[account, deployment])), deployment, ledger[account, deployment], theirs)
        for account, deployment in sorted(names)
        for theirs in [azure.get((account, deployment), Counted()) if account.startswith("/subscriptions/") else None]
    ]


def _account(backend: Backend) -> str:
    """The key of an account, which two backends may share."""
    return backend.resource_id.lower() if backend.resource_id else backend.name
