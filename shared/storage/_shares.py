"""The shares of an account's connections, so that what waits in one table holds up no other one. Pure."""

from enum import Enum

from shared.storage import names


class Share(Enum):
    """The connections of one purpose, by their largest number. A request waits for one of its share."""

    LIMITS = ("limits", 24)
    USAGE = ("usage", 8)  # what calls put on record
    KEYS = ("keys", 16)
    REST = ("rest", 16)

    @property
    def connections(self) -> int:
        return int(self.value[1])


_OF_TABLES = {names.LIMITS: Share.LIMITS, names.CONSUMERS: Share.KEYS, names.FOREIGN_KEYS: Share.KEYS}


def of_rows(table: str) -> Share:
    """The share for single rows and partitions of a table."""
    return _OF_TABLES.get(table, Share.REST)


def of_merges(table: str) -> Share:
    """The share for transactions. Reports and the roll-up read what the ledger writes, by the share of the rest."""
    return Share.USAGE if table.startswith(names.USAGE) else of_rows(table)
