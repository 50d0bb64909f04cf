"""The end of a configured model, from Azure's schedule or the configuration. Pure, except for reading the table once.

`lifecycle.json` has the days that Azure has published, by model and version, with their source. These days move: an
operator may set others (`models.NAME.retires`).
"""

import functools
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path

import msgspec

from shared.config.days import since_seconds
from shared.config.document import Configuration, Model

TABLE = Path(__file__).with_name("lifecycle.json")
NOTICES = (7, 30, 90)  # days before a model's end at which people are alerted
CONFIGURED = "configuration"  # the source of a day

_DAY = 86_400
_PLAIN = Model()


class Retirement(msgspec.Struct, frozen=True):
    """The end of a model. `version` "": that of the deployment is not known, so it is the newest one's end. `retires`:
    the first day without it (YYYY-MM-DD, UTC). `replacement` "": none is named. `read`: the day on which the source was
    read."""

    model: str
    retires: str
    version: str = ""
    replacement: str = ""
    source: str = CONFIGURED
    read: str = ""

    def days_left(self, now: float) -> int:
        """The days from today to the end; negative if it is over."""
        return (since_seconds(self.retires) - int(now // _DAY) * _DAY) // _DAY

    def notice(self, now: float) -> int | None:
        """The shortest of `NOTICES` that has begun; None before the first one, and when the end is over."""
        left = self.days_left(now)
        return next((days for days in NOTICES if 0 <= left <= days), None)

    def is_near(self, now: float) -> bool:
        """True if it is close, or over."""
        return self.days_left(now) <= NOTICES[-1]

    def headers(self) -> dict[str, str]:
        """The headers that announce it: RFC 9745, with the day of the first notice, and RFC 8594."""
        end = since_seconds(self.retires)
        return {"deprecation": f"@{end - NOTICES[-1] * _DAY}", "sunset": formatdate(end, usegmt=True)}


class _Group(msgspec.Struct, frozen=True):
    source: str
    url: str
    read: str
    models: list[Retirement]


def of(model: str, settings: Model = _PLAIN, answered: str = "") -> Retirement | None:
    """The end of a configured model; None if none is known. Its version is that of the name in a backend's answers
    (`answered`), else of its name or an alias, as in `gpt-4o-2024-11-20`."""
    successor = settings.replaced_by.model if settings.replaced_by is not None else ""
    names = (model, *settings.aliases)
    published = _dated((answered,)) or _newest((answered,)) or _dated(names) or _newest(names)
    if settings.retires:
        replacement = successor or (published.replacement if published is not None else "")
        return Retirement(model, settings.retires, replacement=replacement)
    if published is None or not successor:
        return published
    return msgspec.structs.replace(published, replacement=successor)


def of_configured(configuration: Configuration, name: str) -> Retirement | None:
    """The end of a model of a configuration. Azure's schedule says nothing of one that Azure does not serve."""
    settings = configuration.models.get(name, _PLAIN)
    apis = {backend.api for backend in configuration.backends if name in backend.models}
    return None if apis and "azure" not in apis and not settings.retires else of(name, settings)


def of_all(configuration: Configuration) -> dict[str, Retirement]:
    """The ends of all configured models that have a known one."""
    names = dict.fromkeys([*configuration.model_names(), *configuration.switches])
    ends = {name: of_configured(configuration, name) for name in names}
    return {name: end for name, end in ends.items() if end is not None}


def warnings(configuration: Configuration, now: float) -> Iterator[str]:
    """A sentence for each model that ends soon or has ended, unless a successor serves in its place already."""
    for name, end in of_all(configuration).items():
        if end.is_near(now) and configuration.served(name, now) == name:
            yield sentence(name, end, now)


def sentence(name: str, end: Retirement, now: float) -> str:
    """The end of a model in words."""
    left = end.days_left(now)
    when = f"ends on {end.retires}, in {left} days" if left > 0 else f"ended on {end.retires}"
    by = end.source if end.source == CONFIGURED else f"{end.source}, read {end.read}"
    instead = f"; its replacement is {end.replacement}" if end.replacement else ""
    return f"the model {name} {when}{instead} ({by})"


def _dated(names: tuple[str, ...]) -> Retirement | None:
    """The earliest end of the versions that these names have in them."""
    versions = _versions()
    return min((versions[name] for name in names if name in versions), key=lambda end: end.retires, default=None)


def _newest(names: tuple[str, ...]) -> Retirement | None:
    """The end of the newest version of the first name that is in the table."""
    for name in names:
        if versions := [end for end in _versions().values() if end.model == name]:
            return msgspec.structs.replace(max(versions, key=lambda end: end.version), version="")
    return None


@functools.cache
def _versions() -> Mapping[str, Retirement]:
    """The published ends by model and version, as in `gpt-4o-2024-11-20`."""
    groups = msgspec.json.decode(TABLE.read_bytes(), type=list[_Group])
    return {
        f"{end.model}-{end.version}": msgspec.structs.replace(
            end, source=f"{group.source}, {group.url}", read=group.read
        )
        for group in groups
        for end in group.models
    }
