"""Backs up the gateway's tables (keys, limits, usage) into a file, and restores them into an account without them.

python -m infra.tables backup FILE      every row of every table, as JSON lines
python -m infra.tables restore FILE     creates the tables and the rows; nothing that exists is changed

GATEWAY_STORAGE or GATEWAY_STORAGE__tableServiceUri names the account, as for the command line; az login signs in. The
file holds hashes of keys, no keys, and no prompt or answer.
"""

import base64
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError, ResourceExistsError
from azure.data.tables import EdmType, EntityProperty, TableServiceClient, TableTransactionError
from azure.identity import DefaultAzureCredential

from shared.config.environment import load_storage
from shared.errors import ConfigurationError

_AT_ONCE = 100  # rows of one partition in a transaction, which is Azure's most
_READ: Mapping[str, Callable[[Any], Any]] = {
    "int64": lambda value: EntityProperty(int(value), EdmType.INT64),
    "bytes": base64.b64decode,
    "time": datetime.fromisoformat,
}


def service() -> TableServiceClient:
    """The account that the environment names. Raises `ConfigurationError`."""
    storage = load_storage()
    if storage.connection_string:
        return TableServiceClient.from_connection_string(storage.connection_string)
    return TableServiceClient(storage.table_service_uri or "", credential=DefaultAzureCredential())


def written(value: Any) -> Any:
    """A property as JSON, with its type where JSON has none."""
    if isinstance(value, EntityProperty):
        return {"int64": str(value.value)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    return value


def read(value: Any) -> Any:
    """The property that `written` wrote."""
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _READ[kind](text)
    return value


def rows(account: TableServiceClient) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with the name of its table."""
    for table in account.list_tables():
        for entity in account.get_table_client(table.name).list_entities():
            yield table.name, {name: written(value) for name, value in entity.items()}


def backup(account: TableServiceClient, path: Path) -> int:
    """Write the rows into a file; their number."""
    count = 0
    with path.open("x", encoding="utf-8") as file:
        for table, row in rows(account):
            file.write(json.dumps({"table": table, "row": row}) + "\n")
            count += 1
    return count


def restore(account: TableServiceClient, path: Path) -> int:
    """Create the rows of a file; their number. Raises `AzureError` at the first that exists."""
    count = 0
    with path.open(encoding="utf-8") as file:
        lines = (json.loads(line) for line in file)
        places = itertools.groupby(lines, key=lambda line: (line["table"], line["row"]["PartitionKey"]))
        for (table, _), group in places:
            client = account.create_table_if_not_exists(table)
            for batch in itertools.batched(group, _AT_ONCE, strict=False):
                client.submit_transaction(
                    [("create", {name: read(value) for name, value in line["row"].items()}) for line in batch]
                )
                count += len(batch)
    return count


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in ("backup", "restore"):
        print(__doc__, file=sys.stderr)
        return 2
    work = backup if sys.argv[1] == "backup" else restore
    try:
        with service() as account:
            print(f"{work(account, Path(sys.argv[2]))} rows")
    except (ResourceExistsError, TableTransactionError) as error:
        print(f"ERROR: a row exists already: restore into an account without tables ({error.message})", file=sys.stderr)
        return 1
    except (AzureError, ConfigurationError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
