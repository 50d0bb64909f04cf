"""A backup of the tables, restored into an empty account, opens for the same keys and reports the same usage."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azure.data.tables import EdmType, EntityProperty, TableServiceClient

from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import cli
from tests.harness.system import System
from tests.infra.snapshots import ROOT


def tables(storage: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "GATEWAY_STORAGE": storage}
    return subprocess.run(
        [sys.executable, "-m", "infra.tables", *words], cwd=ROOT, env=environ, capture_output=True, text=True
    )


def spent(environ: dict[str, str]) -> list[dict[str, Any]]:
    """The usage by key, without the forecast, which moves with the clock."""
    lines = cli(environ, "usage", "--by", "key", "--json")
    return [{name: value for name, value in line.items() if name != "forecast_usd"} for line in lines]


def test_keys_and_usage_outlive_their_account(gateway: System, tmp_path: Path) -> None:
    assert gateway.chat().status == 200
    file = tmp_path / f"{gateway.edge}.jsonl"
    environ = dict(gateway.gateway.environment)
    usage = spent(environ)
    saved = tables(gateway.storage, "backup", str(file))
    assert (saved.returncode, saved.stderr) == (0, "")
    with start_azurite() as other:
        restored = tables(other.connection_string, "restore", str(file))
        assert (restored.returncode, restored.stdout, restored.stderr) == (0, saved.stdout, "")
        elsewhere = environ | {"GATEWAY_STORAGE": other.connection_string}
        assert spent(elsewhere) == usage
        assert cli(elsewhere, "keys", "list", "--json") == cli(environ, "keys", "list", "--json")
        again = tables(other.connection_string, "restore", str(file))
        assert again.returncode == 1
        assert "restore into an account without tables" in again.stderr


def test_every_type_of_a_property_comes_back(tmp_path: Path) -> None:
    row = {
        "PartitionKey": "p",
        "RowKey": "r",
        "text": "ü",
        "small": 7,
        "large": EntityProperty(2**40, EdmType.INT64),
        "number": 1.5,
        "yes": True,
        "bytes": b"\x00\xff",
        "time": datetime(2026, 11, 29, 12, tzinfo=UTC),
    }
    file = tmp_path / "rows.jsonl"
    with start_azurite() as one, start_azurite() as other:
        with TableServiceClient.from_connection_string(one.connection_string) as account:
            account.create_table("typed").create_entity(row)
        assert tables(one.connection_string, "backup", str(file)).stdout == "1 rows\n"
        assert tables(other.connection_string, "restore", str(file)).returncode == 0
        with TableServiceClient.from_connection_string(other.connection_string) as account:
            (entity,) = account.get_table_client("typed").list_entities()
    assert dict(entity) == row
