"""Exported telemetry of both edges, received as by Application Insights and by a collector."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from local.processes import free_port
from shared import ulid
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.functions_host_http import HOST_SPAN
from tests.harness.gateway_process import EDGES, Answer, Edge, GatewayProcess, cli, make_key
from tests.harness.system import CLAUDE_SPARES, SLOW, chat_body, configuration, eventually
from tests.harness.telemetry_receivers import KEY, Receivers, attributes

PARENT_SPAN = "b7ad6b7169203331"
SHADOWED = {"spare-140": SLOW[-1], "spare-141": "spare-142", SLOW[-2]: "gpt-4o-mini"}  # model: its shadow
MANAGEMENT_KEY = "planted-management-key-0123456789abcdef"
PROMPT = "planted prompt: the merger closes on Friday"
SYSTEM = "planted-system-of-a-caller"


@pytest.fixture(scope="module")
def received() -> Iterator[Receivers]:
    with Receivers() as running:
        yield running


class TracedGateway:
    """A gateway that sends telemetry to both receivers, with helpers for tests."""

    def __init__(self, gateway: GatewayProcess, received: Receivers, key: str, spare: Iterator[str]) -> None:
        self.gateway = gateway
        self.received = received
        self.key = key
        self.spare = spare

    def chat(self, model: str = "gpt-4o", headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], **fields}
        head = {"authorization": f"Bearer {self.key}", "content-type": "application/json", "systemId": SYSTEM}
        return self.gateway.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), head | dict(headers or {})
        )

    def call_record(self, answer: Answer) -> dict[str, Any]:
        """The record of a call, as an operator finds it."""
        head = {"authorization": f"Bearer {MANAGEMENT_KEY}"}
        response = self.gateway.request("GET", f"/gateway/requests/{request_id(answer)}", None, head)
        assert response.status == 200, response.body
        return dict(response.json())

    def spans(self, answer: Answer) -> list[dict[str, Any]]:
        """The spans of a call in Application Insights: the call's own first, which in a container is a request."""
        spans: list[dict[str, Any]] = []

        def arrived() -> bool:
            everything = self.received.of_insights("RequestData") + self.received.of_insights("RemoteDependencyData")
            own = [d for d in everything if d["properties"].get("tollgate.request_id") == request_id(answer)]
            children = [d for d in everything if own and d["tags"].get("ai.operation.parentId") == own[0]["id"]]
            spans[:] = own + sorted(children, key=lambda d: int(d["properties"]["tollgate.attempt"]))
            return bool(own)

        eventually(arrived)
        return spans

    def metric(self, name: str, holds: Callable[[list[dict[str, Any]]], bool] = bool) -> list[dict[str, Any]]:
        eventually(lambda: holds(self.received.insights_metric(name)))
        return self.received.insights_metric(name)


def request_id(answer: Answer) -> str:
    return answer.headers["x-gateway-request-id"]


@pytest.fixture(scope="module")
def traced(edge: Edge, azurite: Azurite, simulator: SimulatorProcess, received: Receivers) -> Iterator[TracedGateway]:
    settings = configuration(simulator, telemetry={"traces_per_second": 100})
    settings["models"] |= {model: {"shadow": {"model": other, "share": 1.0}} for model, other in SHADOWED.items()}
    environ = {
        "GATEWAY_CONFIG": json.dumps(settings),
        "GATEWAY_STORAGE": azurite.connection_string,
        "GATEWAY_MANAGEMENT_KEY": MANAGEMENT_KEY,
        "JAPAN_KEY": simulator.api_key,
        "APPLICATIONINSIGHTS_CONNECTION_STRING": received.connection_string,
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        "PYTHON_ENABLE_OPENTELEMETRY": "true",
        **simulator.identity_environment,
    }
    key = make_key(azurite.connection_string, "told")
    spares = (f"spare-{number:03}" for number in range(143, 150))
    with GatewayProcess(edge, environ) as gateway:
        yield TracedGateway(gateway, received, key, spares)


def test_a_call_is_a_span_with_a_child_per_attempt(traced: TracedGateway, simulator: SimulatorProcess) -> None:
    model = next(traced.spare)
    simulator.fault("status", deployment=model, status=500, times=1)
    answer = traced.chat(model)
    assert answer.status == 200
    call, failed, answered = traced.spans(answer)
    assert call["name"] == f"chat {model}"
    assert (
        call["properties"].items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "azure.ai.openai",
            "gen_ai.request.model": model,
            "gen_ai.usage.output_tokens": "32",
            "tollgate.consumer": traced.key.split("_")[1],
            "tollgate.backend": answer.headers["x-gateway-backend"],
            "tollgate.attempts": "2",
        }.items()
    )
    assert (failed["properties"]["tollgate.result"], failed["resultCode"]) == ("failed", "500")
    assert not failed["success"]
    assert (answered["properties"]["tollgate.result"], answered["resultCode"]) == ("ok", "200")
    assert {d["tags"]["ai.operation.id"] for d in (call, failed, answered)} == {call["tags"]["ai.operation.id"]}
    assert len({call["id"], failed["id"], answered["id"]}) == 3
    assert call["success"]
    assert call["sampleRate"] == 100


@pytest.mark.parametrize(
    ("model", "result", "longer"),
    [("spare-140", "ok", True), ("spare-141", "failed", None), (SLOW[-2], "ok", False)],
    ids=["outlives the call", "fails", "ends before the call"],
)
def test_a_shadow_has_a_span_below_its_calls(
    traced: TracedGateway, simulator: SimulatorProcess, model: str, result: str, longer: bool | None
) -> None:
    if result == "failed":
        simulator.fault("status", deployment=SHADOWED[model], status=500, times=3)
    asked = {"role": "user", "content": f"simulate_output_tokens=200 {PROMPT}"}  # a second of a slow region
    answer = traced.chat(model, messages=[asked])
    assert answer.status == 200
    eventually(lambda: len(traced.spans(answer)) == 3)
    call, answered, shadow = traced.spans(answer)
    said = shadow["properties"]
    assert (said["tollgate.role"], said["tollgate.attempt"], said["tollgate.result"]) == ("shadow", "100", result)
    assert said["gen_ai.request.model"] == SHADOWED[model]
    assert answered["properties"]["tollgate.role"] == "try"
    assert call["properties"]["tollgate.attempts"] == "1"
    assert shadow["tags"]["ai.operation.id"] == call["tags"]["ai.operation.id"]
    assert longer is None or (shadow["duration"] > call["duration"]) == longer


def test_a_shadow_of_a_call_that_is_not_kept_has_no_span(traced: TracedGateway) -> None:
    trace = f"{random.getrandbits(128) | 1:032x}"
    assert traced.chat(SLOW[-2], {"traceparent": f"00-{trace}-{PARENT_SPAN}-00"}).status == 200
    traced.spans(traced.chat())  # a later one has arrived
    assert trace not in json.dumps(traced.received.envelopes)


def test_a_probe_has_no_span(traced: TracedGateway) -> None:
    trace = f"{random.getrandbits(128) | 1:032x}"
    given = {
        "traceparent": f"00-{trace}-{PARENT_SPAN}-01",
        "authorization": f"Bearer {MANAGEMENT_KEY}",
    }
    for path in ("/healthz", "/readyz"):
        assert traced.gateway.request("GET", path, None, given).status == 200
    traced.spans(traced.chat())  # a later one has arrived
    assert trace not in json.dumps(traced.received.envelopes)
    assert bytes.fromhex(trace) not in traced.received.bytes


def test_a_collector_receives_the_same_spans(traced: TracedGateway) -> None:
    answer = traced.chat(stream=True)
    call, attempt = traced.spans(answer)

    def spans() -> dict[str, Any]:
        return {span.span_id.hex(): span for span in traced.received.otlp_spans()}

    eventually(lambda: attempt["id"] in spans())
    same, child = spans()[call["id"]], spans()[attempt["id"]]
    assert (same.name, same.trace_id.hex()) == (call["name"], call["tags"]["ai.operation.id"])
    assert child.parent_span_id == same.span_id
    assert same.start_time_unix_nano <= child.start_time_unix_nano < child.end_time_unix_nano
    assert child.end_time_unix_nano <= same.end_time_unix_nano
    assert abs(same.end_time_unix_nano / 1e9 - time.time()) < 60
    sent = attributes(same)
    assert sent["gen_ai.request.stream"] is True
    assert sent["gen_ai.usage.output_tokens"] == 32
    assert 0 < sent["gen_ai.response.time_to_first_chunk"] < 10
    assert attributes(child).items() >= {"server.address": "127.0.0.1", "http.request.method": "POST"}.items()


@pytest.mark.parametrize("stream", [False, True])
def test_the_parent_of_a_call_is_the_hosts_span_else_the_callers(traced: TracedGateway, stream: bool) -> None:
    trace = f"{random.getrandbits(128) | 1:032x}"
    answer = traced.chat(headers={"traceparent": f"00-{trace}-{PARENT_SPAN}-01"}, stream=stream)
    call, *_ = traced.spans(answer)
    assert call["tags"]["ai.operation.id"] == trace
    above = HOST_SPAN if traced.gateway.edge == "functions" else PARENT_SPAN
    assert call["tags"]["ai.operation.parentId"] == above


def test_a_call_whose_trace_is_not_sampled_has_no_span(traced: TracedGateway) -> None:
    trace = f"{random.getrandbits(128) | 1:032x}"
    answer = traced.chat(headers={"traceparent": f"00-{trace}-{PARENT_SPAN}-00"})
    assert answer.status == 200
    traced.spans(traced.chat())  # a later one has arrived
    assert trace not in json.dumps(traced.received.envelopes)
    assert bytes.fromhex(trace) not in traced.received.bytes
    assert traced.gateway.record(request_id(answer))["trace"] == trace  # the line of the log has it all the same


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_line_of_a_call_belongs_to_its_trace_and_comes_once(traced: TracedGateway, stream: bool) -> None:
    answer = traced.chat(stream=stream)
    call, *_ = traced.spans(answer)

    def lines() -> list[dict[str, Any]]:
        return [m for m in traced.received.of_insights("MessageData") if request_id(answer) in m["message"]]

    eventually(lambda: bool(lines()))
    (line,) = lines()
    assert line["tags"]["ai.operation.id"] == call["tags"]["ai.operation.id"]
    assert line["tags"]["ai.operation.parentId"] == call["id"]
    assert line["properties"]["logger_name"] == "tollgate.requests"
    record = json.loads(line["message"])
    assert (record["trace"], record["output_tokens"]) == (call["tags"]["ai.operation.id"], 32)
    assert traced.gateway.record(request_id(answer))["output_tokens"] == 32

    def of_otlp() -> list[str]:
        lines = traced.received.otlp_lines()
        return [line.trace_id.hex() for line in lines if request_id(answer) in line.body.string_value]

    eventually(lambda: of_otlp() == [record["trace"]])


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_container_reports_one_request_per_call_with_its_status(
    traced: TracedGateway, simulator: SimulatorProcess, status: int
) -> None:
    model = "no-such-model" if status == 404 else next(traced.spare) if status == 500 else "gpt-4o"
    if status == 500:
        simulator.fault("status", deployment=model, status=500, times=3)
    headers = {"authorization": "Bearer tg_wrong"} if status == 401 else {}
    answer = traced.chat(model, headers, **({"messages": 7} if status == 400 else {}))
    assert answer.status == status
    own, *_ = traced.spans(answer)
    traced.spans(traced.chat())  # a later one has arrived
    requests, dependencies = (
        [record for record in traced.received.of_insights(kind) if record["id"] == own["id"]]
        for kind in ("RequestData", "RemoteDependencyData")
    )
    if traced.gateway.edge == "functions":  # the host reports the request
        assert (requests, len(dependencies)) == ([], 1)
    else:
        assert dependencies == []
        assert [(one["responseCode"], one["success"]) for one in requests] == [(str(status), status < 400)]
    assert own["properties"]["tollgate.status"] == str(status)


def test_a_refusal_is_a_span_and_a_count(traced: TracedGateway) -> None:
    answer = traced.gateway.request("GET", "/v1/models", None, {"authorization": "Bearer tg_wrong"})
    assert answer.status == 401
    (span,) = traced.spans(answer)
    assert (span["name"], span["properties"]["tollgate.error"]) == ("refused", "invalid_api_key")
    refusals = traced.metric("tollgate.refusals")
    assert {point["dimensions"]["error.type"] for point in refusals} >= {"invalid_api_key"}


def test_metrics_have_calls_tokens_attempts_and_the_gateways_state(
    traced: TracedGateway, simulator: SimulatorProcess
) -> None:
    model = next(traced.spare)
    simulator.fault("status", deployment=model, status=429, headers={"retry-after": "1"}, times=1)
    answers = [traced.chat(model), traced.chat(model, stream=True)]
    assert [answer.status for answer in answers] == [200, 200]

    def of_model(name: str) -> list[dict[str, Any]]:
        points = traced.received.insights_metric(name)
        return [point for point in points if point["dimensions"].get("gen_ai.request.model") == model]

    eventually(lambda: sum(p["count"] for p in of_model("gen_ai.client.operation.duration")) == 2)
    tokens = of_model("gen_ai.client.token.usage")
    assert sum(p["value"] for p in tokens if p["dimensions"]["gen_ai.token.type"] == "output") == 64
    assert sum(p["count"] for p in of_model("gen_ai.server.time_to_first_token")) == 1
    assert sum(p["count"] for p in of_model("gen_ai.server.time_per_output_token")) == 1
    attempts = [point["dimensions"] for point in traced.metric("tollgate.attempts")]
    assert "throttled" in {dimensions["tollgate.result"] for dimensions in attempts}
    assert {"tollgate.backend", "tollgate.region", "tollgate.result"} == {*attempts[0]}
    operations = {p["dimensions"]["tollgate.store.operation"] for p in traced.metric("tollgate.store.duration")}
    assert "merge" in operations
    for name in ("tollgate.event_loop.lag", "tollgate.ledger.backlog", "tollgate.safe_mode"):
        assert all(point["dimensions"] == {} for point in traced.metric(name)), name
    assert {point["value"] for point in traced.metric("tollgate.safe_mode")} == {0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_claude_reports_every_class_of_its_tokens(
    traced: TracedGateway, simulator: SimulatorProcess, stream: bool
) -> None:
    """In spans, metrics, the log, the record of the call and the headers: the first writes to a prompt cache, for five
    minutes and for an hour, the second reads it; both search the web."""
    model = CLAUDE_SPARES[12 + 2 * EDGES.index(traced.gateway.edge) + stream]
    rules = f"rules of {traced.gateway.edge} " * 800
    system: Any = [
        {"type": "text", "text": f"old {rules}", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": f"new {rules}", "cache_control": {"type": "ephemeral"}},
    ]
    asked = {"model": model, "max_tokens": 99, "stream": stream, "system": system}
    asked["tools"] = [{"type": "web_search_20250305", "name": "web_search"}]
    asked["messages"] = [{"role": "user", "content": f"simulate_web_searches=2 {PROMPT}"}]
    head = {"x-api-key": traced.key, "content-type": "application/json", "anthropic-version": "2023-06-01"}
    simulator.clear()
    answers = [traced.gateway.request("POST", "/v1/messages", json.dumps(asked).encode(), head) for _ in range(2)]
    charges = simulator.log()["requests"]
    assert [entry["cached_tokens"] > 0 for entry in charges] == [False, True]
    for answer, charged in zip(answers, charges, strict=True):
        assert answer.status == 200
        assert answer.headers["request-id"]  # the backend's own
        assert int(answer.headers["x-gateway-attempts"]) == 1
        assert float(answer.headers["x-gateway-overhead-ms"]) >= 0
        amounts = {
            "gen_ai.usage.input_tokens": charged["input_tokens"],
            "gen_ai.usage.output_tokens": charged["output_tokens"],
            "gen_ai.usage.cache_read.input_tokens": charged["cached_tokens"],
            "gen_ai.usage.cache_creation.input_tokens": charged["cache_write_tokens"],
            "tollgate.usage.cache_write_1h_tokens": charged["cache_write_1h_tokens"],
            "tollgate.usage.web_searches": 2,
        }
        call, attempt = traced.spans(answer)
        said = call["properties"]
        assert call["name"] == f"chat {model}"
        assert {name: said[name] for name in amounts if name in said} == {n: str(v) for n, v in amounts.items() if v}
        for span in (call, attempt):
            assert span["properties"]["gen_ai.operation.name"] == "chat"
            assert span["properties"]["gen_ai.provider.name"] == "anthropic"
        assert (said["tollgate.backend"], said["tollgate.region"]) == (
            answer.headers["x-gateway-backend"],
            answer.headers["x-gateway-region"],
        )
        assert ("gen_ai.response.time_to_first_chunk" in said) == stream
        record = traced.gateway.record(request_id(answer))
        assert (record["operation"], record["status"]) == ("messages.create", 200)
        assert (record["input_tokens"], record["output_tokens"]) == (charged["input_tokens"], charged["output_tokens"])
        report = traced.call_record(answer)
        assert (report["operation"], report["model"], report["ended"]) == ("messages.create", model, "complete")
        assert (report["web_searches"], report["estimated"]) == (2, False)
        for name, charge in (("cached_input", "cached"), ("cache_write", "cache_write"), ("cache_write_1h",) * 2):
            assert report.get(f"{name}_tokens", 0) == charged[f"{charge}_tokens"]
    sums = {
        "cached_input": sum(entry["cached_tokens"] for entry in charges),
        "cache_write": sum(entry["cache_write_tokens"] for entry in charges),
        "cache_write_1h": sum(entry["cache_write_1h_tokens"] for entry in charges),
    }
    assert all(sums.values())

    def of_model(name: str, label: str) -> dict[str, float]:
        counted: dict[str, float] = {}
        for point in traced.received.insights_metric(name):
            if point["dimensions"].get("gen_ai.request.model") == model:
                kind = point["dimensions"][label]
                counted[kind] = counted.get(kind, 0) + point["value"]
        return counted

    tokens = partial(of_model, "gen_ai.client.token.usage", "gen_ai.token.type")
    eventually(lambda: tokens().get("output", 0) == sum(entry["output_tokens"] for entry in charges))
    assert {name: tokens()[name] for name in sums} == sums
    assert of_model("tollgate.usage.units", "tollgate.unit") == {"web_search": 4}
    assert PROMPT not in traced.received.bytes.decode("latin-1")


def test_metrics_have_the_tokens_of_work_that_was_settled(traced: TracedGateway) -> None:
    model, head = next(traced.spare), {"authorization": f"Bearer {traced.key}", "content-type": "application/json"}
    asked = json.dumps({"model": model, "input": "simulate_seconds=0 Hello", "background": True}).encode()
    response = traced.gateway.request("POST", "/v1/responses", asked, head).json()["id"]
    assert traced.gateway.request("GET", f"/v1/responses/{response}", None, head).status == 200

    def counted(points: list[dict[str, Any]]) -> bool:
        own = [point for point in points if point["dimensions"].get("gen_ai.request.model") == model]
        output = [point for point in own if point["dimensions"]["gen_ai.token.type"] == "output"]
        assert {point["dimensions"]["gen_ai.operation.name"] for point in own} <= {"chat"}
        return bool(sum(point["value"] for point in output) == 32)

    traced.metric("gen_ai.client.token.usage", counted)


def test_metrics_have_refusals_by_limit_and_used_up_quotas(traced: TracedGateway) -> None:
    made = cli(
        traced.gateway.environment,
        "keys",
        "create",
        f"limited {ulid.new(time.time())}",
        "--request-quota",
        "4",
        "--json",
    )
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"authorization": f"Bearer {made['key']}"}
    ask = partial(traced.gateway.request, "POST", "/v1/chat/completions", body, headers)
    assert [ask().status for _ in range(5)] == [200] * 4 + [403]
    hits = traced.metric("tollgate.limit.hits")
    assert {("key", "requests")} == {tuple(point["dimensions"].values()) for point in hits}
    alerts = traced.metric("tollgate.limit.alerts", lambda points: len(points) >= 2)
    reached = {(p["dimensions"]["tollgate.limit"], p["dimensions"]["tollgate.percentage"]): p["value"] for p in alerts}
    assert reached == {("requests", "80"): 1, ("requests", "100"): 1}


def test_a_collector_receives_metrics_as_sums_since_the_start(traced: TracedGateway) -> None:
    model = next(traced.spare)

    def newest() -> list[Any]:
        metric = traced.received.otlp_metrics().get("gen_ai.client.operation.duration")
        points = metric.histogram.data_points if metric else []
        return [point for point in points if attributes(point).get("gen_ai.request.model") == model]

    for calls in (1, 2, 3):
        assert traced.chat(model).status == 200
        eventually(lambda calls=calls: sum(point.count for point in newest()) == calls)  # type: ignore[misc]
    metric = traced.received.otlp_metrics()["gen_ai.client.operation.duration"]
    assert (metric.unit, metric.histogram.aggregation_temporality) == ("s", 2)  # cumulative
    for point in newest():
        assert list(point.explicit_bounds)[:3] == [0.01, 0.02, 0.04]
        assert sum(point.bucket_counts) == point.count
        assert point.start_time_unix_nano < point.time_unix_nano


def test_exported_telemetry_has_no_text_of_callers_or_backends_and_no_secret(
    traced: TracedGateway, simulator: SimulatorProcess, azurite: Azurite
) -> None:
    model = next(traced.spare)
    wrong_key = "tg_planted_" + traced.key.rpartition("_")[2][::-1]
    fault = {"error": {"code": "server_error", "message": "planted message of a backend"}}
    simulator.fault("status", deployment=model, status=500, body=fault, times=3)
    answers = [traced.chat(), traced.chat(stream=True), traced.chat(model), traced.chat("planted-unknown-model")]
    answers.append(traced.chat(headers={"authorization": f"Bearer {wrong_key}"}))
    for body in (b'{"model": "gpt-4o", "messages": "' + PROMPT.encode(), b'{"model": 7, "messages": []}'):
        head = {"authorization": f"Bearer {traced.key}", "cookie": "planted-cookie", "user-agent": "planted-agent"}
        answers.append(traced.gateway.request("POST", "/v1/chat/completions", body, head))
    assert [answer.status for answer in answers] == [200, 200, 500, 404, 401, 400, 400]
    for answer in answers:
        traced.spans(answer)
    traced.metric("gen_ai.client.operation.duration")
    said = json.loads(answers[0].body)["choices"][0]["message"]["content"]
    assert len(said) > 20
    secrets = [traced.key, traced.key.rpartition("_")[2], wrong_key, simulator.api_key, SYSTEM, PROMPT, said, said[:20]]
    secrets += ["planted", "AccountKey", "Bearer"]
    sent = traced.received.bytes.decode("latin-1")
    for secret in secrets:
        assert secret not in sent, secret
    assert "tollgate.request_id" in sent  # there is something to search


def test_an_unreachable_collector_does_not_affect_calls(azurite: Azurite, simulator: SimulatorProcess) -> None:
    port = free_port()
    environ = {
        "GATEWAY_CONFIG": json.dumps(configuration(simulator)),
        "GATEWAY_STORAGE": azurite.connection_string,
        "JAPAN_KEY": simulator.api_key,
        "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{port}/",
        **simulator.identity_environment,
    }
    key = make_key(azurite.connection_string, "untold")
    with GatewayProcess("uvicorn", environ) as gateway:
        body = json.dumps(chat_body()).encode()
        answer = gateway.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
        assert answer.status == 200
        started = time.monotonic()
        gateway.stop()
        assert time.monotonic() - started < 14
        assert "unexpected error" not in gateway.logs()
