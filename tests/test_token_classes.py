"""A new class of tokens is one line: every place that stores, charges or shows usage has it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from shared.config.document import Backend
from shared.telemetry import instruments
from shared.telemetry.batches import Batch
from shared.telemetry.recorder import Telemetry
from shared.token_classes import TOKEN_CLASSES, UNITS, TokenCounts
from shared.types import Consumer, Outcome, Target, Usage

ROOT = Path(__file__).resolve().parent.parent
LINE = '    dreamt_tokens: Annotated[int, TokenClass("e_dreamt", "output", default_price=3.0)] = 0\n'
PROGRAM = """
import asyncio, json
from shared.billing.charges import Tariff
from shared.billing.focus_export import FocusExporter
from shared.billing.report import as_csv, parse_query, report
from shared.config.parsing import parse
from shared.azure_openai.metering import usage_in_answer
from shared.azure_openai.operations import match
from shared.azure_openai.requests import parse_call
from tests.harness.memory_store import MemoryStore
from shared.telemetry.recorder import Telemetry
from shared.types import Consumer, Outcome, Target, Usage
from shared.usage import hours
from shared.usage.ledger import Ledger
from shared.usage.rollup import roll_up

NOW = 1_790_000_000.0
BACKEND = {"name": "b", "endpoint": "https://b.openai.azure.com", "region": "r", "models": {"m": "d"}}


class Exported:
    busy = False

    def __init__(self):
        self.batches = []

    def send(self, batch):
        self.batches.append(batch)

    async def close(self):
        pass


async def shown(price):
    store, exported = MemoryStore(lambda: NOW), Exported()
    prices = [{"model": "m", "input": 1, "output": 2, **price}]
    configuration = parse(json.dumps({"backends": [BACKEND], "prices": prices}), "test")
    telemetry = Telemetry(exported, 10, 60, lambda: 0.0, lambda: NOW)
    telemetry.start({})
    consumer, target = Consumer("k", "name"), Target(configuration.backends[0], "m", "d")
    body = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
    call = parse_call(match("POST", "/v1/chat/completions"), "", {}, body)
    answer = {"model": "", "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 500_000,
              "completion_tokens_details": {"dreamt_tokens": 200_000, "text_tokens": 300_000}}}
    usage = usage_in_answer(call, 200, json.dumps(answer).encode())
    assert usage == Usage(input_tokens=1_000_000, output_tokens=500_000, dreamt_tokens=200_000), usage
    outcome = Outcome(status=200, usage=usage, served_by=target)
    ledger = Ledger(store)
    context = telemetry.begin("01KAJWBX00000000000000000Z", 0.0, "")
    await ledger.end(ledger.begin("01KAJWBX00000000000000000Z", consumer, call, "m"), outcome)
    telemetry.ended(context, consumer, call, outcome)
    await ledger.close()
    await telemetry.close()
    raw = [row.properties async for row in store.table(hours.raw_table(hours.hour_of(NOW))).scan_all()]
    await roll_up(store)
    sums = [row.properties async for row in store.table("usageagg").scan(hours.hour_partition(hours.hour_of(NOW)))]
    usage_report = await report(store, Tariff.of(configuration), parse_query({}, NOW))
    month = hours.month_start(hours.hour_of(NOW))
    statement = await FocusExporter(store, configuration).statement(month, hours.next_month(month))
    (batch,) = exported.batches
    tokens = [point for point in batch.points if point.instrument.name == "gen_ai.client.token.usage"]
    return {
        "row": raw[0],
        "sums": sums[-1],
        "csv": as_csv(usage_report.heads(), usage_report.rows({})),
        "json": usage_report.rows({})[0],
        "focus": statement.text.decode(),
        "span": batch.spans[0].attributes,
        "metric": {point.labels[-1]: point.value.sum for point in tokens},
    }


async def main():
    print(json.dumps([await shown({}), await shown({"dreamt": 5})]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Everything that a gateway with one more class shows of a call: without a price of the class, and with one."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "shared", house / "shared", ignore=shutil.ignore_patterns("vocabularies", "__pycache__"))
    table = house / "shared" / "token_classes.py"
    text = table.read_text()
    last = next(line for line in text.splitlines(keepends=True) if line.lstrip().startswith(list(TOKEN_CLASSES)[-1]))
    table.write_text(text.replace(last, last + LINE))
    environ = os.environ | {"PYTHONPATH": str(ROOT)}  # for the tests' own store; the copy in `house` is found first
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=house, env=environ, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_new_class_is_one_line_and_is_stored_and_summed(shown: list[dict[str, Any]]) -> None:
    assert "dreamt_tokens" not in TokenCounts.__struct_fields__  # this process has the table as it is
    for place in shown:
        assert place["row"]["e_dreamt"] == 200_000
        assert place["sums"]["dreamt_tokens"] == 200_000
        assert place["json"]["dreamt_tokens"] == 200_000


def test_a_new_class_is_charged_at_its_price_or_as_a_multiple_of_its_total(shown: list[dict[str, Any]]) -> None:
    by_default, priced = shown
    assert by_default["json"]["cost_usd"] == pytest.approx(1 + 0.3 * 2 + 0.2 * 3 * 2)
    assert priced["json"]["cost_usd"] == pytest.approx(1 + 0.3 * 2 + 0.2 * 5)


def test_a_new_class_is_in_csv_and_focus(shown: list[dict[str, Any]]) -> None:
    for place, cost in zip(shown, ("1.2", "1"), strict=True):
        (line,) = csv.DictReader(place["csv"].splitlines())
        assert line["dreamt_tokens"] == "200000"
        (row,) = [row for row in csv.DictReader(place["focus"].splitlines()) if row["SkuMeter"] == "Dreamt Tokens"]
        assert (row["ConsumedQuantity"], row["BilledCost"]) == ("200000", cost)


def test_a_new_class_is_in_spans_and_metrics(shown: list[dict[str, Any]]) -> None:
    for place in shown:
        assert place["span"]["tollgate.usage.dreamt_tokens"] == 200_000
        assert place["metric"] == {"input": 1_000_000, "output": 500_000, "dreamt": 200_000}


class Kept:
    """An exporter that keeps what it is sent."""

    busy = False

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)

    async def close(self) -> None: ...


async def test_everything_charged_by_the_piece_is_in_the_span_of_its_call_and_in_the_metric() -> None:
    exported = Kept()
    telemetry = Telemetry(exported, 10, 60, lambda: 0.0, lambda: 0.0)
    telemetry.start({})
    amounts = {field: number for number, field in enumerate(UNITS, 2)}
    body = b'{"model":"m","input":"hello"}'
    call = parse_call(match("POST", "/v1/responses"), "", {}, body)
    target = Target(Backend(name="b", endpoint="https://b", region="r", models={"m": "m"}), "m", "m")
    for _ in range(2):
        context = telemetry.begin("01KAJWBX00000000000000000Z", 0.0, "")
        outcome = Outcome(status=200, usage=msgspec.structs.replace(Usage(5, 7), **amounts), served_by=target)
        telemetry.ended(context, Consumer("k", "name"), call, outcome)
    await telemetry.close()
    (batch,) = exported.batches
    attributes = batch.spans[0].attributes
    assert {field: attributes[f"tollgate.usage.{field}"] for field in UNITS} == amounts
    points = {point.labels: point.value for point in batch.points if point.instrument is instruments.UNITS}
    assert points == {("chat", "m", "b", unit.price): 2 * amounts[field] for field, unit in UNITS.items()}
