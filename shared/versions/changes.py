"""Changes of the configuration by operators: each makes a new version, or none at all."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from shared.config import layers
from shared.config.document import Configuration
from shared.config.layers import Base, Sections
from shared.errors import ChangedMeanwhile, RequestTooLarge, VersionNotFound
from shared.storage.conditional import TRIES, contended, pause
from shared.versions.rows import MOST_CHARACTERS, Version, Versions, text_of

_NEW = "the new version"


class Changes:
    """Makes versions. `base`: returns the base document of now. `check`: raises `ConfigurationError` if this process
    cannot serve a configuration; the argument after it is its name in complaints."""

    def __init__(
        self,
        versions: Versions,
        base: Callable[[], Base],
        check: Callable[[Configuration, str], object] = lambda configuration, name: None,
    ) -> None:
        self.versions = versions
        self._base = base
        self._check = check
        self._one_at_a_time = asyncio.Lock()  # in this process: the writers of others are conflict enough

    def validate(self, sections: Sections) -> Configuration:
        """Return the configuration with these sections over the base document. Raises `ConfigurationError` with all
        complaints, and `RequestTooLarge`."""
        if len(text_of(sections)) > MOST_CHARACTERS:
            message = f"The sections of a version have at most {MOST_CHARACTERS} characters as JSON together."
            raise RequestTooLarge(message)
        configuration = layers.effective(self._base(), sections, _NEW)
        self._check(configuration, _NEW)
        return configuration

    async def section(self, name: str) -> Any:
        """A section as the newest version has it; None if there is none. Raises `StoreUnavailable`."""
        newest = await self.versions.existing((await self.versions.pointer()).number)
        return self._of(newest, name)

    def _of(self, version: Version, section: str) -> Any:
        """A copy of a version's section, else of the base document's."""
        return copy.deepcopy(version.sections.get(section, self._base().sections.get(section)))

    async def replace(self, sections: Sections, by: str, note: str = "", expected: int | None = None) -> Version:
        """Make a version of exactly these sections. `expected`: the number of the version that must still be current.

        Returns the current version if it has them already. Raises `ConfigurationError`, `ChangedMeanwhile` and
        `StoreUnavailable`."""

        def same(current: Version) -> Sections:
            if expected not in (None, current.number):
                raise ChangedMeanwhile(
                    f"The current configuration is version {current.number}, not {expected}: read it again."
                )
            return sections

        return await self._change(same, by, note)

    async def edit(self, section: str, change: Callable[[Any], Any], by: str, note: str = "") -> Version:
        """Make a version in which one section is what `change` returns. `change` gets a copy of the section as it is
        served, None if there is none; it may be called several times, because other operators may be faster.

        Raises what `change` raises, and as `replace`."""

        def changed(current: Version) -> Sections:
            return {**current.sections, section: change(self._of(current, section))}

        return await self._change(changed, by, note)

    async def earlier(self, number: int) -> Version:
        """Return a version; 0: the base document alone. Raises `VersionNotFound` and `StoreUnavailable`."""
        version = await self.versions.get(number)
        if version is None:
            message = f"There is no version {number}: it never existed, or is older than the versions that are kept."
            raise VersionNotFound(message)
        return version

    async def _change(self, change: Callable[[Version], Sections], by: str, note: str) -> Version:
        async with self._one_at_a_time:
            for attempt in range(TRIES):
                pointer = await self.versions.pointer()
                current = await self.versions.existing(pointer.number)
                sections = dict(change(current))
                await asyncio.to_thread(self.validate, sections)  # large ones take long, and open streams go on
                replaced = layers.digests(self._base(), sections)
                if (sections, replaced) == (current.sections, current.replaced):
                    return current
                replacement = Version(sections=sections, by=by, note=note, replaced=replaced)
                if (written := await self.versions.put(replacement, pointer)) is not None:
                    return written
                await pause(attempt)
        raise contended("The configuration")
