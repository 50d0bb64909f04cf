"""The ledger compared with Azure Monitor, through Azure's own client, against a simulation of the service."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from shared import bootstrap
from shared.billing.reconciliation import Counted, compare
from shared.config.document import Backend
from shared.config.environment import Storage
from shared.storage import Properties
from shared.usage import hours
from shared.usage.folds import Counts, Dimensions
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.azurite import azurite as start_azurite
from tests.harness.gateway_process import ROOT

GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/g/providers"
ACCOUNT = f"{GROUP}/Microsoft.CognitiveServices/accounts/one"
OTHER = f"{GROUP}/Microsoft.CognitiveServices/accounts/two"


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    """One of its own: the roll-up of other tests drops the months that these rows are in."""
    with start_azurite() as running:
        yield running


def backend(name: str, resource_id: str | None = ACCOUNT, **models: str) -> Backend:
    return Backend(
        name=name,
        endpoint="https://a",
        region="swedencentral",
        models=models or {"gpt-4o": "chat"},
        resource_id=resource_id,
    )


def test_every_deployment_has_both_counts() -> None:
    lines = {
        Dimensions("a", "gpt-4o", "v1", "r", deployment="chat"): Counts(requests=2, input_tokens=100, output_tokens=10),
        Dimensions("b", "gpt-4o", "dated", "r", deployment="chat"): Counts(
            requests=1, input_tokens=50, output_tokens=5
        ),
        Dimensions("b", "gpt-4o", "v1", "r", deployment="chat", role="hedge"): Counts(charges=1, input_tokens=7),
        Dimensions("b", "gpt-4o", "-", "-"): Counts(requests=9, errors=9),
        Dimensions("b", "gpt-4o", "gone", "r", deployment="old"): Counts(requests=1, input_tokens=3),
    }
    azure = {
        (ACCOUNT.lower(), "chat"): Counted(4, 157, 15),
        (ACCOUNT.lower(), "elsewhere"): Counted(1, 8, 8),
    }
    differences = compare(lines, [backend("v1"), backend("dated"), backend("unnamed", None)], azure)
    rows = {(one.backends, one.deployment): (one.ledger, one.azure, one.percent, one.same) for one in differences}
    assert rows == {
        ("dated,v1", "chat"): (Counted(4, 157, 15), Counted(4, 157, 15), 0.0, True),
        ("dated,v1", "elsewhere"): (Counted(), Counted(1, 8, 8), -100.0, False),
        ("unnamed", "chat"): (Counted(), None, None, False),
        ("gone", "old"): (Counted(1, 3), None, None, False),
    }


class Monitor(BaseHTTPRequestHandler):
    """The metrics API of a region: totals by the hour, one series per deployment."""

    asked: ClassVar[list[tuple[str, dict[str, list[str]], dict[str, Any], str]]] = []
    tokens: ClassVar[dict[str, dict[str, int]]] = {}
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        query = parse_qs(parts.query)
        self.asked.append((parts.path, query, body, self.headers.get("authorization", "")))
        names = query["metricnames"][0].split(",")
        values = [self._resource(resource, names) for resource in body["resourceids"]]
        data = json.dumps({"values": values} if self.status == 200 else {"error": {"code": "Nope"}}).encode()
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _resource(self, resource: str, names: list[str]) -> dict[str, Any]:
        series = {
            name: [
                {
                    "metadatavalues": [{"name": {"value": "modeldeploymentname"}, "value": deployment}],
                    "data": [
                        {"timeStamp": "2026-11-03T00:00:00Z", "total": counts[name] - 1},
                        {"timeStamp": "2026-11-03T01:00:00Z", "total": 1.0},
                        {"timeStamp": "2026-11-03T02:00:00Z"},
                    ],
                }
                for deployment, counts in self.tokens.items()
                if resource.endswith("/one")
            ]
            for name in names
        }
        return {
            "starttime": "2026-11-03T00:00:00Z",
            "endtime": "2026-11-04T00:00:00Z",
            "interval": "PT1H",
            "namespace": "Microsoft.CognitiveServices/accounts",
            "resourceregion": "swedencentral",
            "resourceid": resource,
            "value": [
                {
                    "id": f"{resource}/{name}",
                    "type": "m",
                    "name": {"value": name},
                    "unit": "Count",
                    "timeseries": series[name],
                }
                for name in names
            ],
        }

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def monitor() -> Iterator[str]:
    Monitor.asked, Monitor.status = [], 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), Monitor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def write(storage: str) -> None:
    async with bootstrap.open_store(Storage(connection_string=storage)) as store:
        row: Properties = {
            "s_key": "a",
            "s_model": "gpt-4o",
            "s_ts": hours.from_label("2026050310") * 3600.0,
            "e_status": 200,
        }
        end: Properties = {"e_backend": "one", "e_deployment": "chat", "e_input": 900, "e_output": 90}
        await store.table("usage202605").merge("2026050310-00", {"reconciled": {**row, **end}})


def test_the_command_prints_the_difference_of_a_day(
    azurite: Azurite, simulator: SimulatorProcess, monitor: str
) -> None:
    asyncio.run(write(azurite.connection_string))
    Monitor.tokens = {"chat": {"ProcessedPromptTokens": 900, "GeneratedTokens": 90, "AzureOpenAIRequests": 1}}
    names = [("one", ACCOUNT), ("two", OTHER)]
    backends = [
        {
            "name": name,
            "endpoint": "https://a",
            "region": "Sweden Central",
            "models": {"gpt-4o": "chat"},
            "resource_id": id_,
        }
        for name, id_ in names
    ]
    environ = {
        "GATEWAY_CONFIG": json.dumps({"backends": backends, "azure_monitor": monitor}),
        "GATEWAY_STORAGE": azurite.connection_string,
        "NO_PROXY": "*",
        **simulator.identity_environment,
    }

    def reconcile(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shared.cli", "reconcile", *words]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)

    done = reconcile("--date", "2026-05-03", "--json")
    assert done.returncode == 0, done.stderr
    one, idle = json.loads(done.stdout)
    assert (one["ledger"], one["azure"], one["percent"]) == (one["azure"], one["ledger"], 0.0)
    assert one["ledger"]["input_tokens"] == 900
    assert (idle["backends"], idle["ledger"]["requests"], idle["azure"]["requests"]) == ("two", 0, 0)
    path, query, body, authorization = Monitor.asked[0]
    assert path == "/subscriptions/00000000-0000-0000-0000-000000000000/metrics:getBatch"
    assert body == {"resourceids": [ACCOUNT, OTHER]}
    assert query["filter"] == ["ModelDeploymentName eq '*'"]
    assert (query["starttime"], query["endtime"]) == (["2026-05-03T00:00:00.000Z"], ["2026-05-04T00:00:00.000Z"])
    assert authorization.startswith("Bearer ")
    Monitor.tokens["chat"]["GeneratedTokens"] = 100
    table = reconcile("--date", "2026-05-03")
    assert table.returncode == 1
    assert "-1.000" in table.stdout
    Monitor.status = 403
    refused = reconcile("--date", "2026-05-03")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Monitoring Reader" in refused.stderr
    assert "Traceback" not in refused.stderr
    for bad in ("yesterday", "2026-13-01"):
        assert "--date: expected a day" in reconcile("--date", bad).stderr
