"""Moderations: flags inputs that contain `simulate_content_filter`."""

import msgspec

from simulator import errors
from simulator.answers import Answer, answer_json
from simulator.call import Call, Route
from simulator.collection import Object, make_id
from simulator.generation import FILTERED_WORD

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


class _Request(msgspec.Struct, frozen=True):
    input: str | list[str | Object] | None = None
    model: str | None = None


def create(call: Call) -> Answer:
    request = call.decode(_Request)
    if request.input is None:
        raise errors.missing_parameter("input")
    inputs = [request.input] if isinstance(request.input, str) else request.input
    deployment = call.deployment(request.model, len(call.body) // 4)
    if deployment.model.kind != "moderation":
        raise errors.operation_not_supported("moderations", deployment.model.name)
    texts = [one if isinstance(one, str) else str(one.get("text", "")) for one in inputs]
    results = [_result(FILTERED_WORD in text) for text in texts]
    return answer_json({"id": make_id("modr-"), "model": deployment.model.answered_name, "results": results})


def _result(flagged: bool) -> Object:
    return {
        "flagged": flagged,
        "categories": {name: flagged and name == "violence" for name in CATEGORIES},
        "category_scores": {name: 0.98 if flagged and name == "violence" else 0.01 for name in CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }


ROUTES = (Route("POST", "moderations", create),)
