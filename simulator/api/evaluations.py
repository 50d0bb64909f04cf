"""Evals, their runs and output items."""

import json
from typing import Any

import msgspec

from simulator import errors
from simulator.answers import Answer, Charge, answer_json
from simulator.call import Call, Route
from simulator.collection import Object, Plain, make_id, now
from simulator.content import Content
from simulator.generation import generate, work_seconds
from simulator.store import Evaluation, EvaluationRun
from simulator.tokens import measure

RUN_SECONDS = 0.2
MOST_ITEMS = 1_000


class _Create(msgspec.Struct, frozen=True):
    name: str | None = None
    data_source_config: Object | None = None
    testing_criteria: list[Object] | None = None
    metadata: dict[str, str] | None = None


class _CreateRun(msgspec.Struct, frozen=True):
    name: str | None = None
    data_source: Object | None = None
    metadata: dict[str, str] | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Create, required=("data_source_config", "testing_criteria"))
    evaluation = Evaluation(
        {
            "id": make_id("eval_"),
            "object": "eval",
            "created_at": now(),
            "name": request.name,
            "data_source_config": request.data_source_config,
            "testing_criteria": [{"id": make_id("crit_"), **one} for one in request.testing_criteria or ()],
            "metadata": request.metadata or {},
        }
    )
    return answer_json(call.store.evaluations.add(evaluation).object, status=201)


def list_all(call: Call) -> Answer:
    return answer_json(call.store.evaluations.page(call.query, order="asc"))


def get(call: Call) -> Answer:
    return answer_json(call.store.evaluations.get(call.id).object)


def update(call: Call) -> Answer:
    evaluation = call.store.evaluations.get(call.id).object
    request = call.decode(_Create)
    for name in ("name", "metadata"):
        if (value := getattr(request, name)) is not None:
            evaluation[name] = value
    return answer_json(evaluation)


def delete(call: Call) -> Answer:
    call.store.evaluations.remove(call.id)
    return answer_json({"object": "eval.deleted", "deleted": True, "eval_id": call.id})


def create_run(call: Call) -> Answer:
    evaluation = call.store.evaluations.get(call.id)
    request = call.decode(_CreateRun)
    source = request.data_source
    if source is None:
        raise errors.missing_parameter("data_source")
    items = _items(call, source.get("source") or {})
    model = source.get("model")
    if model is not None:
        call.deployments.find(str(model))
    run = EvaluationRun(
        {
            "id": make_id("evalrun_"),
            "object": "eval.run",
            "eval_id": call.id,
            "report_url": "https://evals.invalid/report",
            "status": "queued",
            "model": model,
            "name": request.name,
            "created_at": now(),
            "result_counts": {"total": 0, "errored": 0, "failed": 0, "passed": 0},
            "per_model_usage": None,
            "per_testing_criteria_results": None,
            "data_source": source,
            "error": None,
            "metadata": request.metadata or {},
        }
    )
    evaluation.runs.add(run)

    def finish() -> None:
        if run.object["status"] == "queued":
            _complete(call, run, items)

    call.store.work.later(work_seconds(request.metadata, RUN_SECONDS), finish)
    return answer_json(run.object, status=201)


def _items(call: Call, source: Object) -> list[Any]:
    """Items to evaluate, from the request or a file. Raises AzureError 400 or 404."""
    if source.get("type") == "file_id":
        content: Content = call.store.files.get(str(source.get("id"))).content
        lines = content.read().splitlines()[:MOST_ITEMS]
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise errors.invalid_request("The file of the data source is not JSONL.", "data_source") from error
    return list(source.get("content") or ())[:MOST_ITEMS]


def _complete(call: Call, run: EvaluationRun, items: list[Any]) -> None:
    """Mark every item as passed. A run with a model generates an answer per item and is charged for it."""
    model = run.object["model"]
    total = Charge()
    for place, item in enumerate(items):
        text = json.dumps(item)
        if model is not None:
            written = generate(text, 0, None, call.deployments.find(str(model)).model)
            read = measure(text).tokens
            total.charge(Charge(input_tokens=read, output_tokens=written.output_tokens))
        run.items.add(
            Plain(
                {
                    "id": make_id("outputitem_"),
                    "object": "eval.run.output_item",
                    "created_at": now(),
                    "run_id": run.object["id"],
                    "eval_id": run.object["eval_id"],
                    "status": "pass",
                    "datasource_item_id": place,
                    "datasource_item": item,
                    "results": [],
                    "sample": None,
                }
            )
        )
    call.charge_late(total)
    usage = {
        "model_name": model,
        "invocation_count": len(items),
        "prompt_tokens": total.input_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.input_tokens + total.output_tokens,
        "cached_tokens": 0,
    }
    run.object.update(
        status="completed",
        result_counts={"total": len(items), "errored": 0, "failed": 0, "passed": len(items)},
        per_model_usage=[usage] if model is not None else [],
        per_testing_criteria_results=[],
    )


def list_runs(call: Call) -> Answer:
    status = call.query.get("status")
    runs = call.store.evaluations.get(call.id).runs
    return answer_json(runs.page(call.query, order="asc", matches=lambda run: status in (None, run["status"])))


def get_run(call: Call) -> Answer:
    return answer_json(_run(call).object)


def delete_run(call: Call) -> Answer:
    call.store.evaluations.get(call.id).runs.remove(call.ids[1])
    return answer_json({"object": "eval.run.deleted", "deleted": True, "run_id": call.ids[1]})


def cancel_run(call: Call) -> Answer:
    run = _run(call)
    if run.object["status"] != "queued":
        raise errors.invalid_request(f"Cannot cancel a run with status '{run.object['status']}'.")
    run.object["status"] = "canceled"
    return answer_json(run.object)


def list_output_items(call: Call) -> Answer:
    return answer_json(_run(call).items.page(call.query, order="asc"))


def get_output_item(call: Call) -> Answer:
    return answer_json(_run(call).items.get(call.ids[2]).object)


def _run(call: Call) -> EvaluationRun:
    return call.store.evaluations.get(call.id).runs.get(call.ids[1])


ROUTES = (
    Route("POST", "evals", create),
    Route("GET", "evals", list_all),
    Route("GET", "evals/{id}", get),
    Route("POST", "evals/{id}", update),
    Route("DELETE", "evals/{id}", delete),
    Route("POST", "evals/{id}/runs", create_run),
    Route("GET", "evals/{id}/runs", list_runs),
    Route("GET", "evals/{id}/runs/{id}", get_run),
    Route("POST", "evals/{id}/runs/{id}", cancel_run),
    Route("DELETE", "evals/{id}/runs/{id}", delete_run),
    Route("POST", "evals/{id}/runs/{id}/cancel", cancel_run),
    Route("GET", "evals/{id}/runs/{id}/output_items", list_output_items),
    Route("GET", "evals/{id}/runs/{id}/output_items/{id}", get_output_item),
)
