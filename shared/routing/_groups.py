"""The targets of every model in groups that take turns, by the configuration. Pure."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shared.config.document import Backend, Configuration
from shared.routing.breakers import Breakers
from shared.routing.deployments import DeploymentState
from shared.routing.rotation import smooth_order
from shared.types import Target


class Candidate(NamedTuple):
    """A target, with the state of its deployment at hand because every call looks at it."""

    target: Target
    state: DeploymentState


class Group(msgspec.Struct, frozen=True):
    """Targets of one model that take turns. `orders`: for every place of the rotation's round of `turns`, each target
    once. `pool` "": they take no turns."""

    pool: str
    turns: int
    orders: tuple[tuple[Candidate, ...], ...]

    @property
    def targets(self) -> list[Target]:
        return [candidate.target for candidate in self.orders[0]]


def groups_by_model(configuration: Configuration, breakers: Breakers) -> dict[str, tuple[Group, ...]]:
    """The groups of every model: the lowest priority number first, and within a priority the provisioned ones, which
    are paid for even if they are not used."""
    return {model: _groups(model, configuration.backends, breakers) for model in configuration.model_names()}


def group_without_model(configuration: Configuration, breakers: Breakers) -> Group:
    """All backends by priority, for calls without a model (of files, threads …). Such targets have no deployment."""
    backends = sorted(configuration.backends, key=lambda backend: backend.priority)
    targets = [Target(backend, "", "") for backend in backends]
    return Group("", 1, (tuple(Candidate(target, breakers.watched(target)) for target in targets),))


def _groups(model: str, backends: Sequence[Backend], breakers: Breakers) -> tuple[Group, ...]:
    serving = sorted((b for b in backends if model in b.models), key=lambda b: (b.priority, not b.provisioned))
    groups = []
    for (priority, provisioned), members in itertools.groupby(serving, key=lambda b: (b.priority, b.provisioned)):
        targets = [Target(backend, model, backend.deployments[model]) for backend in members]
        pool = f"{model}:{priority}" + (":provisioned" if provisioned else "")
        groups.append(_group(pool, [Candidate(target, breakers.watched(target)) for target in targets]))
    return tuple(groups)


def _group(pool: str, members: Sequence[Candidate]) -> Group:
    """Each first target is combined with every rotation of the others behind it: if it is skipped, its calls are spread
    over all the others, and not all sent to the next."""
    weights = [member.target.backend.weight for member in members]
    turns = smooth_order([weight // math.gcd(*weights) for weight in weights])
    rounds = [list(dict.fromkeys(turns[start:] + turns[:start])) for start in range(len(turns))]
    orders = [
        tuple(members[i] for i in (first, *others[k:], *others[:k]))
        for k in range(max(1, len(members) - 1))
        for first, *others in rounds
    ]
    return Group(pool, len(turns), tuple(orders))
