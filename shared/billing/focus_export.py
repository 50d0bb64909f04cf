"""Months of charges as FOCUS files in a blob container: the timer and `export` write them, `reprice` rewrites them.

Only these files store money. The row of a month in the table `control` notes the sum of its file, so that `reprice` can
report the change. Files are written whole, so two timers at once do no harm.
"""

import asyncio
import csv
import importlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from shared.auth.consumers import Consumers
from shared.billing._focus import COLUMNS, Focus
from shared.billing.charges import Tariff
from shared.billing.prices import Prices
from shared.config.document import Configuration
from shared.config.environment import Storage
from shared.storage import Properties, Store
from shared.storage.names import CONTROL
from shared.usage import hours, query, rollup

PARTITION = "export"
_AT_ONCE = 100  # charges rendered before others may run


class Container(Protocol):
    """The destination of the files (`storage/blobs.py`)."""

    async def put(self, container: str, name: str, body: bytes, content_type: str) -> None: ...


class Statement(msgspec.Struct, frozen=True):
    """A month's file up to an hour. The sum lacks the `unpriced` rows, whose price is unknown."""

    month: int
    until: int
    rows: int
    unpriced: int
    picodollars: int
    text: bytes

    @property
    def label(self) -> str:
        return month_label(self.month)


class Repriced(msgspec.Struct, frozen=True):
    """A month whose file was rewritten, with its sums in picodollars."""

    month: str
    before: int
    after: int


class FocusExporter:
    """Renders and writes the files of a gateway. Without a `container` it only renders."""

    def __init__(self, store: Store, configuration: Configuration, container: Container | None = None) -> None:
        self._store = store
        self._settings = configuration.export
        self._backends = {backend.name: backend for backend in configuration.backends}
        self._tariff = Tariff.of(configuration)
        self._listed = Tariff(Prices((), configuration.backends), configuration.backends)
        self._container = container

    async def statement(self, month: int, until: int) -> Statement:
        """Render the file of a month, given by its first hour, up to an hour. Raises `StoreUnavailable`."""
        names = await Consumers(self._store).names()
        focus = Focus(self._settings.billing_account, names, self._backends, self._listed)
        days = range(month, until, hours.DAY)
        pieces = query.spans(month, until, [*days, *self._tariff.cuts(month, until)])
        text, rows, unpriced, total, done = io.StringIO(), 0, 0, 0, 0
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for piece, lines in zip(pieces, await query.read(self._store, pieces), strict=True):
            for charge in sorted(self._tariff.charges(piece, lines, self._store.now()), key=lambda one: one.line):
                for row in focus.rows(piece, charge):
                    writer.writerow(row)
                    rows += 1
                    unpriced += row["x_Unpriced"] == "true"
                total += charge.picodollars or 0
                done += 1
                if done % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        return Statement(month, until, rows, unpriced, total, text.getvalue().encode())

    async def write(self, statement: Statement, *, final: bool = False) -> str:
        """Put a file into the container, and note its sum. Return its name; "" for a month without charges."""
        assert self._container is not None
        name = f"focus/{statement.label}.csv" if statement.rows else ""
        if name:
            await self._container.put(self._settings.container or "", name, statement.text, "text/csv")
        noted: Properties = {"until": statement.until, "final": final, "picodollars": str(statement.picodollars)}
        await self._store.table(CONTROL).merge(PARTITION, {statement.label: noted})
        return name

    async def write_due(self) -> list[str]:
        """Write this month up to its last whole settled day, and the last month once no rows can be late. Return the
        names of the files written."""
        done = await rollup.watermarks(self._store)
        if done is None or self._container is None:
            return []
        written = []
        current = hours.month_start(hours.hour_of(self._store.now()))
        for month in (hours.month_start(current - 1), current):
            end = hours.next_month(month)
            until, final = min(end, hours.day_start(done.settled)), done.sealed >= end
            row = await self._store.table(CONTROL).get(PARTITION, month_label(month))
            exported = (int(row.properties["until"]), bool(row.properties["final"])) if row else (month, False)
            if until > month and (until, final) != exported and not exported[1]:
                written.append(await self.write(await self.statement(month, until), final=final))
        return [name for name in written if name]

    async def reprice(self, since: int) -> list[Repriced]:
        """Rewrite the files of the months since the hour `since`, each up to its former end, at today's prices."""
        months = []
        async for row in self._store.table(CONTROL).scan(PARTITION):
            month, until = hours.from_label(row.key.replace("-", "") + "0100"), int(row.properties["until"])
            if until <= since:
                continue
            statement = await self.statement(month, until)
            await self.write(statement, final=bool(row.properties["final"]))
            months.append(Repriced(row.key, int(row.properties["picodollars"]), statement.picodollars))
        return months


def month_label(month: int) -> str:
    label = hours.label(month)
    return f"{label[:4]}-{label[4:6]}"


@asynccontextmanager
async def open_exporter(storage: Storage, configuration: Configuration, store: Store) -> AsyncIterator[FocusExporter]:
    """The writer of charges as files in the container that the configuration names."""
    await asyncio.to_thread(importlib.import_module, "shared.storage.blobs")  # open streams must not stutter
    from shared.storage import blobs

    files = blobs.open(storage)
    try:
        yield FocusExporter(store, configuration, files)
    finally:
        await files.close()
