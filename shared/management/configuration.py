"""The configuration: what is served and where each section comes from, its versions, and changes of it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from starlette.responses import Response

from shared.auth.operators import ADMINS
from shared.config import layers, masking
from shared.config.layers import Sections
from shared.config.parsing import data_of
from shared.errors import (
    ChangedMeanwhile,
    Complaint,
    ConfigurationError,
    ConfigurationRefused,
    StoreUnavailable,
    VersionNotFound,
)
from shared.management import _answers as answers
from shared.management.audit import Audit, Change
from shared.management.routes import IF_MATCH, ManagementRequest, Route, checked, page, printable
from shared.management.turns import Turns
from shared.responses.rendering import JsonResponse
from shared.versions.changes import Changes
from shared.versions.live import Live
from shared.versions.rows import Version

_LONGEST_NOTE = 500  # characters
_BODY = "the body"
_MOST_CHECKS = 4  # of one operator


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version to go back to: its number, or `base` for the base document alone."""

    version: int | str
    note: str = ""


class ConfigurationRoutes:
    """The paths below `/gateway/configuration`."""

    def __init__(self, live: Live, changes: Changes, audit: Audit) -> None:
        self._live = live
        self._changes = changes
        self._audit = audit
        self._checks = Turns(1, _MOST_CHECKS)  # they take the processor, which calls need

    def routes(self) -> Sequence[Route]:
        at, sections = "/gateway/configuration", dict[str, Any]
        changing: dict[str, Any] = {"takes": sections, "gives": answers.Version}
        going_back: dict[str, Any] = {"takes": Rollback, "gives": answers.Version}
        return (
            Route("GET", at, "operator", self._show, gives=answers.Configuration),
            Route("PUT", at, "operator", self._replace, ADMINS, query=("note",), **changing, headers=IF_MATCH),
            Route("POST", f"{at}/validate", "operator", self._validate, takes=sections, gives=answers.Validated),
            Route("POST", f"{at}/rollback", "operator", self._roll_back, ADMINS, **going_back, headers=IF_MATCH),
            Route("GET", f"{at}/versions", "operator", self._list, gives=answers.Versions, query=("limit", "after")),
            Route("GET", f"{at}/versions/{{number}}", "operator", self._version, gives=answers.Version),
        )

    async def _show(self, request: ManagementRequest) -> Response:
        """The effective document of this instance, which looks for a newer one first."""
        await self._live.look()
        newest = (await self._changes.versions.pointer()).number
        return JsonResponse(masking.masked(self._live.report()), headers=_etag(newest))

    async def _replace(self, request: ManagementRequest) -> Response:
        """Serve exactly these sections over the base document, as a new version. The body may be YAML."""
        note = printable("note", request.query.get("note", ""), _LONGEST_NOTE)
        sections = await self._valid(request)
        return await self._change(request, "configuration.apply", sections, note)

    async def _roll_back(self, request: ManagementRequest) -> Response:
        """Serve the sections of an earlier version, as a new one."""
        rollback = checked(request.object(), Rollback)
        version = await self._earlier(str(rollback.version))
        note = printable("note", rollback.note, _LONGEST_NOTE) or f"rollback to {version.name}"
        return await self._change(request, "configuration.rollback", version.sections, note)

    async def _change(self, request: ManagementRequest, action: str, sections: Sections, note: str) -> Response:
        """Make these sections the current version, with a record in the audit trail."""
        versions, expected = self._changes.versions, _expected(request.if_match)
        before = await versions.existing((await versions.pointer()).number)
        change = Change(request, action, "configuration", before.sections, sections)

        async def write() -> Version:
            with _refusing():
                return await self._changes.replace(sections, request.actor.name, note, expected)

        written = await self._audit.perform(change, write)
        with suppress(StoreUnavailable):
            await self._live.look()
        return JsonResponse(_about(written, written.number), headers=_etag(written.number))

    async def _validate(self, request: ManagementRequest) -> Response:
        """The changes that a version of these sections would make. 400 if it could not be used."""
        sections = await self._valid(request)
        base = self._live.newest_base.sections
        now = {**base, **self._live.version.sections}
        differences = layers.differences(now, {**base, **sections})
        changes = [{"section": name, "before": before, "after": after} for name, before, after in differences]
        return JsonResponse({"valid": True, "changes": masking.masked(changes)})

    async def _valid(self, request: ManagementRequest) -> dict[str, Any]:
        """The sections in the body, with the URLs of now in place of their masks. Raises `ConfigurationRefused`,
        `RateLimitExceeded`, and what `validate` raises."""
        versions = self._changes.versions
        async with self._checks.take(request.actor.name):
            with _refusing():  # in a thread: YAML takes a second per 200 kB
                sections: dict[str, Any] = await asyncio.to_thread(_sections, request.body)
                current = await versions.existing((await versions.pointer()).number)
                sections = masking.unmasked(sections, self._live.newest_base.sections, current.sections)
                await asyncio.to_thread(self._changes.validate, sections)
                return sections

    async def _list(self, request: ManagementRequest) -> Response:
        """List the versions, newest first."""
        history = await self._changes.versions.history()
        current = history[0].number if history else 0
        return JsonResponse(
            page(history, request.query, lambda one: f"{10**8 - one.number:09}", lambda one: _about(one, current))
        )

    async def _version(self, request: ManagementRequest) -> Response:
        """Read a version with its sections."""
        version = await self._earlier(request.parameters["number"])
        current = (await self._changes.versions.pointer()).number
        document = masking.masked(version.sections)
        return JsonResponse(_about(version, current) | {"document": document}, headers=_etag(version.number))

    async def _earlier(self, text: str) -> Version:
        """The version with this number; `base` or 0: the base document alone. Raises `VersionNotFound`."""
        if text != "base" and not (text.isascii() and text.isdecimal() and len(text) <= 8):
            raise VersionNotFound(f"Expected the number of a version or base, got {text[:64]!r}.")
        return await self._changes.earlier(0 if text == "base" else int(text))


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationRefused(error) from None


def _sections(body: bytes) -> dict[str, Any]:
    """The sections in a body, which is a document in YAML or JSON. Raises `ConfigurationError`."""
    try:
        data = data_of(body.decode(), _BODY)
    except UnicodeDecodeError:
        raise ConfigurationError(Complaint("", "is not UTF-8 text", _BODY)) from None
    if not isinstance(data, dict):
        problem = "expected sections of the configuration by name, or {} for none"
        raise ConfigurationError(Complaint("", problem, _BODY))
    return data


def _etag(number: int) -> dict[str, str]:
    return {"etag": f'"{number}"'}


def _expected(if_match: str | None) -> int | None:
    """The version that an ETag names. Raises `ChangedMeanwhile` for any other ETag."""
    if if_match is None:
        return None
    number = if_match.removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdecimal() and len(number) <= 8):
        raise ChangedMeanwhile(f"If-Match: expected the ETag of the configuration, got {if_match[:64]!r}.")
    return int(number)


def _about(version: Version, current: int) -> dict[str, Any]:
    return version.about() | {"sections": list(version.sections), "current": version.number == current}
