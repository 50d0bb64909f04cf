"""The models of a region: list and get."""

from typing import Any

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.call import Call, Route
from simulator.models import Model

CREATED = 1_700_000_000


def list_all(call: Call) -> Answer:
    return answer_json({"data": [_facts(model) for model in call.deployments.models], "object": "list"})


def get(call: Call) -> Answer:
    for model in call.deployments.models:
        if call.id in (model.name, model.answered_name):
            return answer_json(_facts(model))
    raise errors.model_not_found(call.id)


def _facts(model: Model) -> dict[str, Any]:
    return {
        "capabilities": {
            "chat_completion": model.kind in ("chat", "reasoning"),
            "completion": model.kind == "completions",
            "embeddings": model.kind == "embeddings",
            "fine_tune": False,
            "inference": True,
        },
        "created": CREATED,
        "created_at": CREATED,
        "id": model.answered_name,
        "lifecycle_status": "generally-available",
        "object": "model",
        "owned_by": "azure-openai",
        "status": "succeeded",
    }


ROUTES = (Route("GET", "models", list_all), Route("GET", "models/{id}", get))
