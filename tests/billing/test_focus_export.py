"""Charges as FOCUS files: their content, their sums, and their way into a real blob container."""

import asyncio
import base64
import csv
import hashlib
import hmac
import io
import json
import os
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core.credentials import AzureNamedKeyCredential

from local.azurite import ACCOUNT, KEY
from shared import bootstrap
from shared.billing._focus import COLUMNS
from shared.billing.focus_export import FocusExporter
from shared.config.document import Configuration
from shared.config.environment import Storage
from shared.config.parsing import parse
from shared.errors import StoreUnavailable
from shared.storage import Properties, Store
from shared.storage.blobs import Blobs
from shared.usage import hours
from shared.usage.rollup import roll_up
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import cli
from tests.harness.memory_store import MemoryStore

SWEDEN: dict[str, Any] = {
    "name": "sweden",
    "endpoint": "https://a.openai.azure.com",
    "region": "swedencentral",
    "models": {"gpt-4o": "chat", "ours": "x"},
    "resource_id": "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/g/providers"
    "/Microsoft.CognitiveServices/accounts/a",
}
RESERVED: dict[str, Any] = {
    "name": "reserved",
    "endpoint": "https://b.openai.azure.com",
    "region": "swedencentral",
    "models": {"gpt-4o": "ptu"},
    "kind": "provisioned",
    "capacity": [
        {"model": "gpt-4o", "units": 10, "from": "2026-10-30"},
        {"model": "gpt-4o", "units": 0, "from": "2026-11-02"},
    ],
}
EXPORT = {"container": "costs", "billing_account": "Contoso"}


def configuration(*backends: dict[str, Any], **more: Any) -> Configuration:
    return parse(json.dumps({"backends": backends or [SWEDEN], "export": EXPORT, **more}), "test")


async def call(store: Store, hour: str, key: str = "a", model: str = "gpt-4o", **more: Any) -> None:
    row: Properties = {
        "s_key": key,
        "s_model": model,
        "s_ts": hours.from_label(hour) * 3600.0,
        "e_input": 1_000_000,
        "e_cached": 400_000,
        "e_output": 100_000,
        "e_status": 200,
        "e_backend": "sweden",
        "e_region": "swedencentral",
        "e_deployment": "chat",
        **more,
    }
    await store.table(f"usage{hour[:6]}").merge(f"{hour}-00", {f"{hour}{key}{model}{len(more)}": row})


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode())))


class Files:
    """A container in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.writes = 0

    async def put(self, container: str, name: str, body: bytes, content_type: str) -> None:
        assert (container, content_type) == ("costs", "text/csv")
        self.files[name] = body
        self.writes += 1


class Clock:
    def __init__(self, label: str) -> None:
        self.now = hours.from_label(label) * 3600.0
        self.store = MemoryStore(lambda: self.now)


async def test_a_row_has_one_class_of_tokens_of_a_day() -> None:
    clock = Clock("2026110500")
    await call(clock.store, "2026110310", s_product="shop", e_served="gpt-4o-2024-11-20")
    await call(clock.store, "2026110311", s_product="shop", e_served="gpt-4o-2024-11-20")
    month = hours.from_label("2026110100")
    prices = [{"model": "gpt-4o", "input": 2.0, "output": 8.0, "cached_input": 1.0}]
    statement = await FocusExporter(clock.store, configuration(prices=prices)).statement(month, month + 96)
    cached, fresh, output = sorted(rows_of(statement.text), key=lambda row: row["SkuMeter"])
    assert (fresh["SkuMeter"], fresh["ConsumedQuantity"], fresh["PricingQuantity"]) == (
        "Input Tokens",
        "1200000",
        "1.2",
    )
    assert (fresh["BilledCost"], fresh["ListCost"], fresh["ListUnitPrice"]) == ("2.4", "3", "2.5")
    assert (cached["SkuMeter"], cached["BilledCost"], cached["ListCost"]) == ("Cached Input Tokens", "0.8", "1")
    assert (output["SkuMeter"], output["EffectiveCost"], output["ContractedUnitPrice"]) == ("Output Tokens", "1.6", "8")
    assert fresh["ChargePeriodStart"] == "2026-11-03T00:00:00Z"
    assert fresh["ChargePeriodEnd"] == "2026-11-04T00:00:00Z"
    assert (fresh["BillingPeriodStart"], fresh["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert fresh["ResourceId"].endswith("/accounts/a/deployments/chat")
    assert (fresh["SubAccountId"], fresh["SkuId"], fresh["Tags"]) == ("a", "gpt-4o-2024-11-20", '{"product": "shop"}')
    assert (fresh["BillingAccountId"], fresh["PricingUnit"]) == ("Contoso", "1000000 Tokens")


async def test_the_rows_add_up_to_the_usage_report() -> None:
    clock = Clock("2026110300")
    for number in range(40):
        backend = ["sweden", "reserved"][number % 3 == 0]
        await call(
            clock.store,
            f"202611{1 + number % 2:02}{number % 20:02}",
            f"k{number}",
            e_input=number * 1001,
            e_cached=0,
            e_backend=backend,
            e_deployment={"sweden": "chat", "reserved": "ptu"}[backend],
            e_tier=["default", "batch", "priority"][number % 3],
        )
    month = hours.from_label("2026110100")
    statement = await FocusExporter(clock.store, configuration(SWEDEN, RESERVED)).statement(month, month + 48)
    rows = rows_of(statement.text)
    assert statement.rows == len(rows)
    for column in ("BilledCost", "EffectiveCost", "ContractedCost"):
        assert sum(Decimal(row[column] or 0) for row in rows) == Decimal(statement.picodollars) / 10**12
    for row in rows:
        if row["BilledCost"]:
            quantity, unit = float(row["PricingQuantity"]), float(row["ContractedUnitPrice"])
            assert quantity * unit == pytest.approx(float(row["ContractedCost"]), rel=1e-6, abs=1e-9)
    capacity = [row for row in rows if row["CapacityReservationStatus"]]
    assert sum(float(row["BilledCost"]) for row in capacity) == pytest.approx(24 * 10)  # it ends on the second
    assert {row["CapacityReservationStatus"] for row in capacity} == {"Used", "Unused"}


async def test_a_call_that_azure_spilled_over_has_token_rows_beside_the_capacity() -> None:
    clock = Clock("2026110200")
    zone = SWEDEN | {"name": "zone", "endpoint": RESERVED["endpoint"], "models": {"gpt-4o": "payg"}}
    used: dict[str, Any] = {"e_backend": "reserved", "e_cached": 0, "e_output": 0}
    await call(clock.store, "2026110110", "kept", e_deployment="ptu", **used)
    await call(clock.store, "2026110110", "spilled", e_deployment="payg", **used)
    month = hours.from_label("2026110100")
    statement = await FocusExporter(clock.store, configuration(RESERVED, zone)).statement(month, month + 24)
    by_key = {row["SubAccountId"]: row for row in rows_of(statement.text)}
    spilled, kept = by_key["spilled"], by_key["kept"]
    assert (spilled["PricingCategory"], spilled["CapacityReservationStatus"]) == ("Standard", "")
    assert (spilled["SkuMeter"], spilled["BilledCost"], spilled["ResourceName"]) == ("Input Tokens", "2.5", "payg")
    assert (kept["PricingCategory"], kept["CapacityReservationStatus"]) == ("Committed", "Used")
    assert kept["BilledCost"] == "10"


async def test_usage_without_a_price_has_a_row_without_costs() -> None:
    clock = Clock("2026110300")
    await call(clock.store, "2026110110", model="ours")
    month = hours.from_label("2026110100")
    statement = await FocusExporter(clock.store, configuration()).statement(month, month + 48)
    (row,) = rows_of(statement.text)
    assert (row["BilledCost"], row["ListCost"], row["x_Unpriced"], row["ConsumedQuantity"]) == (
        "",
        "",
        "true",
        "1100000",
    )
    assert statement.unpriced == 1


async def test_the_timer_writes_this_month_by_the_day_and_the_last_one_once_it_is_sealed() -> None:
    clock, files = Clock("2026103112"), Files()
    exporter = FocusExporter(clock.store, configuration(), files)
    assert await exporter.write_due() == []  # nothing is rolled up yet
    await call(clock.store, "2026103010")
    await call(clock.store, "2026103111")
    await roll_up(clock.store)
    assert await exporter.write_due() == ["focus/2026-10.csv"]
    assert len(rows_of(files.files["focus/2026-10.csv"])) == 3  # the thirtieth; the day itself is not over
    assert await exporter.write_due() == []
    for label, written in (
        ("2026110105", ["focus/2026-10.csv"]),
        ("2026110206", ["focus/2026-10.csv"]),
    ):
        clock.now = hours.from_label(label) * 3600.0
        await roll_up(clock.store)
        assert await exporter.write_due() == written
        assert await exporter.write_due() == []
        assert len(rows_of(files.files["focus/2026-10.csv"])) == 6
    assert "focus/2026-11.csv" not in files.files  # nobody has used anything


async def test_repricing_rewrites_exported_months_and_is_idempotent() -> None:
    clock, files = Clock("2026110312"), Files()
    await call(clock.store, "2026103010")
    await call(clock.store, "2026110210", model="ours")
    await roll_up(clock.store)
    before = configuration(prices=[{"model": "gpt-4o", "input": 1.0, "output": 1.0}])
    await FocusExporter(clock.store, before, files).write_due()
    old = dict(files.files)
    prices = [{"model": "gpt-4o", "input": 2.0, "output": 2.0}, {"model": "ours", "input": 1.0, "output": 1.0}]
    exporter = FocusExporter(clock.store, configuration(prices=prices), files)
    (november,) = await exporter.reprice(hours.from_label("2026110100"))
    assert (november.month, november.before, november.after) == ("2026-11", 0, 1_100_000_000_000)
    assert files.files["focus/2026-10.csv"] == old["focus/2026-10.csv"]
    october, november = await exporter.reprice(hours.from_label("2026101500"))
    assert (october.before, october.after) == (1_100_000_000_000, 2_200_000_000_000)
    assert november.before == november.after
    once = dict(files.files)
    again = await exporter.reprice(hours.from_label("2026101500"))
    assert [one.after - one.before for one in again] == [0, 0]
    assert files.files == once
    assert once != old


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    with start_azurite(blobs=True) as running:
        yield running


def read_blob(connection_string: str, path: str) -> bytes:
    """A blob as the service gives it to whoever holds the key."""
    endpoint = next(part for part in connection_string.split(";") if part.startswith("BlobEndpoint="))[13:]
    date = formatdate(usegmt=True)
    resource = f"/{ACCOUNT}{urlsplit(endpoint).path}/{path}"
    text = "GET\n\n\n\n\n\n\n\n\n\n\n\n" + f"x-ms-date:{date}\nx-ms-version:2021-12-02\n{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": "2021-12-02", "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{path}", headers=headers)) as answer:
        body: bytes = answer.read()
        return body


def test_the_command_line_exports_into_a_container_and_into_a_file(account: Azurite, tmp_path: Path) -> None:
    async def use() -> None:
        async with bootstrap.open_store(Storage(connection_string=account.connection_string)) as store:
            await call(store, "2026060110")

    asyncio.run(use())
    environ = {
        "GATEWAY_CONFIG": json.dumps({"backends": [SWEDEN], "export": EXPORT}),
        "GATEWAY_STORAGE": account.connection_string,
    }
    for _ in range(2):  # the container is made once
        answer = cli(environ, "export", "--month", "2026-06", "--json")
        assert (answer["rows"], answer["usd"], answer["written"]) == (3, "3", "focus/2026-06.csv")
    written = read_blob(account.connection_string, "costs/focus/2026-06.csv")
    assert [row["BilledCost"] for row in rows_of(written)] == ["0.5", "1.5", "1"]
    assert tuple(rows_of(written)[0]) == COLUMNS
    cli(environ, "export", "--month", "2026-06", "--out", str(tmp_path / "june.csv"), "--json")
    assert (tmp_path / "june.csv").read_bytes() == written
    dearer = {"backends": [SWEDEN], "export": EXPORT, "prices": [{"model": "gpt-4o", "input": 5, "output": 10}]}
    environ["GATEWAY_CONFIG"] = json.dumps(dearer)
    for before in ("3", "6"):
        (line,) = cli(environ, "reprice", "--from", "2026-06-15", "--json")
        assert (line["month"], line["before"], line["after"]) == ("2026-06", before, "6")
    assert read_blob(account.connection_string, "costs/focus/2026-06.csv") != written


async def test_the_timers_job_exports_after_the_roll_up(
    account: Azurite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tollgate")
    monkeypatch.setenv("GATEWAY_CONFIG", json.dumps({"backends": [SWEDEN], "export": EXPORT}))
    monkeypatch.setenv("GATEWAY_STORAGE", account.connection_string)
    async with bootstrap.application(os.environ) as application:
        hour = hours.label(hours.hour_of(application.store.now()) - 48)
        await call(application.store, hour)
        await application.roll_up()
        name = f"focus/{hour[:4]}-{hour[4:6]}.csv"
        assert f"export: {name} written" in caplog.text
        written = await asyncio.to_thread(read_blob, account.connection_string, f"costs/{name}")
        assert {row["ChargePeriodStart"][:10].replace("-", "") for row in rows_of(written)} == {hour[:8]}


async def test_the_error_of_an_unreachable_container_names_the_reason(account: Azurite) -> None:
    endpoint = next(part for part in account.connection_string.split(";") if part.startswith("BlobEndpoint="))[13:]
    wrong = base64.b64encode(b"wrong").decode()
    for blobs, message in (
        (Blobs(endpoint, AzureNamedKeyCredential(ACCOUNT, wrong)), "403"),
        (Blobs("http://127.0.0.1:9/x", AzureNamedKeyCredential(ACCOUNT, KEY)), "no answer"),
    ):
        with pytest.raises(StoreUnavailable, match=message):
            await blobs.put("costs", "a", b"x", "text/csv")
        await blobs.close()
