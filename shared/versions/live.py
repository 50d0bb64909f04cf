"""The configuration that this process serves: loaded at the start, and checked for changes every 15 s.

The newest configuration is the current base document with the current version. If it cannot be used, it is refused with
all complaints, and the last good one stays: in this process, and through the table in one that starts meanwhile."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from shared.alerts.dispatcher import Raise
from shared.alerts.events import configuration_refused
from shared.config import layers, residency
from shared.config.document import Configuration
from shared.config.environment import Settings
from shared.config.layers import Base
from shared.errors import Complaint, ConfigurationError, StoreUnavailable
from shared.versions.rows import Good, Version, Versions

logger = logging.getLogger("tollgate.configuration")

EVERY = 15.0  # seconds between two looks, at most; with one that fails, two instances still agree within 30 s
_AFTER_THE_START, _AFTER_A_FAILURE = 1.0, 3.0
READ_AT_THE_START = ("durability", "overflow_directory", "overflow_bytes")  # of the section `ledger`
_MOST_TRIED = 8  # earlier versions that a start tries


class Refused(msgspec.Struct, frozen=True):
    """A newer configuration than the one served, which cannot be used."""

    name: str
    complaints: tuple[Complaint, ...]


class Live:
    """One per process. `read` returns the text of the base document, whose name is `source`; `settings` those of this
    process with a configuration, and raises `ConfigurationError`."""

    def __init__(
        self,
        read: Callable[[], Awaitable[str]],
        source: str,
        versions: Versions,
        settings: Callable[[Configuration, str], Settings],
    ) -> None:
        self._read = read
        self._source = source
        self._versions = versions
        self._settings = settings
        self._apply: Callable[[Settings], None] | None = None
        self._alert: Raise | None = None
        self._looking = asyncio.Lock()
        self._seen: tuple[str, int] | None = None  # what the last look found
        self._remembered = False
        self._unread = ""  # why the base document could not be read by the last look
        self.refused: tuple[Refused, ...] = ()
        self.base: Base
        self.newest_base: Base  # the newest that is valid by itself: new versions lie over it
        self.version: Version
        self.settings: Settings
        self._started: Configuration

    # --- the start ----------------------------------------------------------------------------------------------------

    async def start(self) -> Settings:
        """Find what to serve: the newest, else the last good one. Raises `ConfigurationError` with the complaints about
        the newest if nothing can be used."""
        problem: ConfigurationError | None = None
        async for base, version in self._candidates():
            try:
                if isinstance(base, ConfigurationError):
                    raise base
                settings = self._settings_of(base, version)
            except ConfigurationError as error:
                problem = problem or error
                continue
            self.base = self.newest_base = base
            self.version, self.settings = version, settings
            self._started = settings.configuration
            if problem is not None:
                complaints = " | ".join(map(str, problem.complaints))
                logger.error(
                    "ALERT the newest configuration is invalid; starting with %s over %s: %s",
                    version.name, base.source, complaints,
                )  # fmt: skip
            return settings
        raise problem or ConfigurationError("there is no configuration")

    async def _candidates(self) -> AsyncIterator[tuple[Base | ConfigurationError, Version]]:
        """The configurations that a start may serve, best first."""
        base = await self._newest_base()
        try:
            pointer = await self._versions.pointer()
            newest = await self._versions.existing(pointer.number)
        except StoreUnavailable as error:
            logger.error("ALERT cannot read the versions of the configuration yet: %s", error)
            yield base, Version()
            return
        yield base, newest
        try:
            if (good := await self._versions.remembered()) is not None and good.trusted:
                name = f"{good.source} as it was served last"
                yield layers.base(good.text, name), await self._versions.existing(good.version)
            for _ in range(_MOST_TRIED if newest.number else 0):
                newest = await self._versions.existing(newest.previous)
                yield base, newest
                if not newest.number:
                    break
        except (StoreUnavailable, ConfigurationError) as error:
            logger.error("cannot read the last good configuration: %s", error)

    async def _newest_base(self) -> Base | ConfigurationError:
        try:
            return layers.base(await self._read(), self._source)
        except ConfigurationError as error:
            return error
        except StoreUnavailable as error:
            return ConfigurationError(Complaint("", str(error)))

    def _settings_of(self, base: Base, version: Version) -> Settings:
        name = version.name if version.number else base.source
        return self._settings(layers.effective(base, version.sections, version.name), name)

    # --- looks --------------------------------------------------------------------------------------------------------

    def serve_by(self, apply: Callable[[Settings], None], alert: Raise) -> None:
        """Set the functions that serve newer configurations from now on, and that raise alerts of refused ones."""
        self._apply, self._alert = apply, alert

    async def follow(self) -> None:
        """Look for as long as the process runs."""
        pause = _AFTER_THE_START
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            pause = EVERY
            try:
                await self.look()
            except StoreUnavailable as error:
                logger.warning("cannot check for a newer configuration: %s", error)
                pause = _AFTER_A_FAILURE
            except Exception:
                logger.exception("checking for a newer configuration failed")

    async def look(self) -> None:
        """Serve the newest configuration if it can be used. Raises `StoreUnavailable`."""
        async with self._looking:
            number = (await self._versions.pointer()).number
            text = await self._newest_text()
            snapshot = (str(text) if isinstance(text, ConfigurationError) else layers.digest(text), number)
            if snapshot != self._seen:
                known = number == self.version.number
                newest = self.version if known else await self._versions.existing(number)
                await self._take(await self._base_of(text), newest)
                self._seen = snapshot
            if self._apply is not None and not self.refused and not self._remembered:
                await self._versions.remember(Good(self._source, self.base.text, self.version.number))
                self._remembered = True

    async def _newest_text(self) -> str | ConfigurationError:
        """The current text of the base document; the last one if it cannot be read, so that operators can go on."""
        try:
            text, self._unread = await self._read(), ""
            return text
        except ConfigurationError as error:
            return error
        except StoreUnavailable as error:
            if not self._unread:
                logger.warning("cannot read the base document; keeping the last one: %s", error)
            self._unread = str(error)
            return self.newest_base.text

    async def _base_of(self, text: str | ConfigurationError) -> Base | ConfigurationError:
        """The base document of a text, read in a thread: YAML takes a second per 200 kB, and open streams go on."""
        if isinstance(text, ConfigurationError):
            return text
        for known in (self.base, self.newest_base):
            if layers.digest(text) == known.digest:
                return known
        try:
            return await asyncio.to_thread(layers.base, text, self._source)
        except ConfigurationError as error:
            return error

    async def _take(self, outcome: Base | ConfigurationError, newest: Version) -> None:
        """Serve the best of what a look found: the newest of both layers, else of one of them."""
        base, refused = self.base, []
        if isinstance(outcome, ConfigurationError):
            refused.append(Refused(self._source, outcome.complaints))
        else:
            base = outcome
        self.newest_base = base
        for i, (below, version) in enumerate(((base, newest), (base, self.version), (self.base, newest))):
            if below is self.base and version is self.version:
                break
            try:
                self._serve(below, version, await asyncio.to_thread(self._settings_of, below, version))
                break
            except ConfigurationError as error:
                if i == 0:
                    refused.append(Refused(f"{newest.name} over {base.source}", error.complaints))
        for one in refused:
            if one not in self.refused:
                complaints = " | ".join(map(str, one.complaints))
                logger.error("ALERT %s is invalid; keeping the last good one: %s", one.name, complaints)
                if self._alert is not None:
                    self._alert(configuration_refused(one.name, [*map(str, one.complaints)], time.time()))
        self.refused = tuple(refused)

    def _serve(self, base: Base, version: Version, settings: Settings) -> None:
        if self._apply is not None:
            self._apply(settings)
        self.base, self.version, self._remembered = base, version, False
        self.settings = settings
        logger.info("serving %s over %s (%s)", version.name, base.source, base.digest[:12])

    def report(self) -> dict[str, Any]:
        """The configuration that is served, the source of each section, and the problems of newer ones."""
        version, sections = self.version, {**self.base.sections, **self.version.sections}
        changed = set(layers.changed_below(self.newest_base, version.replaced))
        return {
            **version.about(),
            "base": {"source": self.base.source, "sha256": self.base.digest},
            "sections": {name: version.name if name in version.sections else "base" for name in sections},
            "warnings": [
                *(
                    f"{name}: the base document has changed since {version.name} replaced this section"
                    for name in version.sections
                    if name in changed
                ),
                *([f"cannot read the base document; keeping the last one: {self._unread}"] if self._unread else ()),
                *residency.warnings(self.settings.configuration),
            ],
            "refused": [
                {"name": one.name, "complaints": [{"path": c.path, "message": c.message} for c in one.complaints]}
                for one in self.refused
            ],
            "needs_restart": self.needs_restart(),
            "document": sections,
        }

    def needs_restart(self) -> list[str]:
        """The keys whose new values are not served until the process starts again."""
        now, then = self.settings.configuration.ledger, self._started.ledger
        return [f"ledger.{key}" for key in READ_AT_THE_START if getattr(now, key) != getattr(then, key)]
