"""A deployment as it stands in one region: its model, its rate limits and its prompt cache; and the list of models."""

from typing import Any

import msgspec

from . import errors
from .config import DeploymentConfig
from .limits import Limits, RateLimited, RateLimiter
from .models import Model, find_model
from .tokens import PromptCache

CREATED = 1_700_000_000

# The operation as the text of a 429 names it.
_OPERATION_NAMES = {
    "chat/completions": "ChatCompletions_Create",
    "completions": "Completions_Create",
    "embeddings": "Embeddings_Create",
}


class Deployment:
    def __init__(self, config: DeploymentConfig) -> None:
        self.name = config.name
        self.model = find_model(config.model, config.kind)
        self._provisioned = "provisioned" in config.sku.lower()
        self._configured_limits = Limits(config.tokens_per_minute, config.requests_per_minute)
        self.restore()

    def restore(self) -> None:
        self.cache = PromptCache()
        self.set_limits(self._configured_limits)

    def set_limits(self, limits: Limits) -> None:
        """Puts other limits in place, with nothing used of them."""
        self._limiter = RateLimiter(limits)

    def admit(self, estimated_tokens: int, operation: str, dated_version: str | None, region: str, now: float) -> None:
        """Raises AzureError 429. `now` in seconds of a steady clock, `region` as it is displayed."""
        try:
            self._limiter.admit(estimated_tokens, now)
        except RateLimited as limited:
            raise errors.rate_limited(
                deployment=self.name,
                model=self.model.name,
                region=region,
                operation=_OPERATION_NAMES[operation],
                api_version=dated_version or "v1",
                what=limited.what,
                retry_after=limited.retry_after,
            ) from limited

    def headers(self, now: float) -> dict[str, str]:
        """x-ms-deployment-name and, unless the deployment is provisioned, x-ratelimit-*."""
        headers = {} if self._provisioned else self._limiter.headers(now)
        headers["x-ms-deployment-name"] = self.name
        return headers


def model_list_body(models: list[Model]) -> bytes:
    return msgspec.json.encode({"data": [_model_facts(model) for model in models], "object": "list"})


def model_body(models: list[Model], name: str) -> bytes:
    """Raises AzureError 404."""
    for model in models:
        if name in (model.name, model.answered_name):
            return msgspec.json.encode(_model_facts(model))
    raise errors.model_not_found(name)


def _model_facts(model: Model) -> dict[str, Any]:
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
