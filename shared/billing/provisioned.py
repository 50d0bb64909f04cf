"""Published facts about provisioned capacity, from `provisioned.json`: each group has its source and its day."""

import functools
import re
from pathlib import Path

import msgspec

from shared.config.prices import DeploymentType

FACTS = Path(__file__).with_name("provisioned.json")
_ANYWHERE = 15, 5  # minimum and step of global and data zone deployments, of every model in the table
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Throughput(msgspec.Struct, frozen=True):
    """Input tokens per minute and unit; the input tokens that an output token counts as; and the smallest regional
    deployment with the step by which it grows, in units."""

    tokens_per_minute: int
    output_ratio: float
    regional_minimum: int
    regional_step: int


class Reservation(msgspec.Struct, frozen=True):
    """USD per unit, for a month and for a year."""

    month: float
    year: float


class _Group(msgspec.Struct, frozen=True):
    source: str
    day: str

    @property
    def cited(self) -> str:
        return f"{self.source}, {self.day}"


class _Throughputs(_Group, frozen=True):
    models: dict[str, Throughput]


class _Reservations(_Group, frozen=True):
    usd: dict[DeploymentType, Reservation]


class _Place(msgspec.Struct, frozen=True):
    models: tuple[str, ...]
    regions: tuple[str, ...]


class _Offers(_Group, frozen=True):
    places: dict[DeploymentType, list[_Place]]


class Facts(msgspec.Struct, frozen=True):
    throughput: _Throughputs
    reservations: _Reservations
    offers: _Offers


@functools.cache
def facts() -> Facts:
    return msgspec.json.decode(FACTS.read_bytes(), type=Facts)


def throughput(model: str) -> Throughput | None:
    """The throughput of a model, by its name with or without the date; None if it is not published."""
    return facts().throughput.models.get(_DATED.sub("", model))


def sizes(model: str, deployment: DeploymentType) -> tuple[int, int] | None:
    """The minimum and the step of a model's deployments, in units; None if they are not published."""
    if deployment != "regional":
        return _ANYWHERE
    known = throughput(model)
    return (known.regional_minimum, known.regional_step) if known else None


def regions(model: str, deployment: DeploymentType) -> tuple[str, ...]:
    """The regions in which a model is offered as such a deployment; empty if none is published."""
    named = _DATED.sub("", model)
    return next((place.regions for place in facts().offers.places[deployment] if named in place.models), ())
