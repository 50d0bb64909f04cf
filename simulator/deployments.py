"""A deployment in one region: its model, rate limits and prompt cache."""

from . import errors
from .answers import Charge
from .config import DeploymentConfig
from .limits import Limits, RateLimited, RateLimiter, Utilisation
from .models import find_model
from .tokens import PromptCache

# Operation names in the message of a 429, where they are not the capitalised path.
_OPERATION_NAMES = {"chat/completions": "ChatCompletions_Create"}


class Deployment:
    def __init__(self, config: DeploymentConfig) -> None:
        self.name = config.name
        self.model = find_model(config.model, config.kind)
        self.spillover = config.spillover
        self.provisioned = "provisioned" in config.sku.lower()
        self._configured_limits = Limits(config.tokens_per_minute, config.requests_per_minute, config.window_seconds)
        self.restore()

    def restore(self) -> None:
        self.cache = PromptCache()
        self.set_limits(self._configured_limits)

    def set_limits(self, limits: Limits) -> None:
        """Replace the limits; the new ones start unused."""
        self._limiter = Utilisation(limits) if self.provisioned else RateLimiter(limits)

    def admit(self, estimated_tokens: int, operation: str, dated_version: str | None, region: str, now: float) -> None:
        """Raises AzureError 429. `now` in seconds of a monotonic clock; `region` is the display name."""
        try:
            self._limiter.admit(estimated_tokens, now)
        except RateLimited as limited:
            raise errors.rate_limited(
                deployment=self.name,
                model=self.model.name,
                region=region,
                operation=_OPERATION_NAMES.get(operation) or _operation_name(operation),
                api_version=dated_version or "v1",
                what=limited.what,
                retry_after=limited.retry_after,
            ) from limited

    def correct(self, estimated_tokens: int, charge: Charge) -> None:
        """Replace an estimate by the actual usage. Cached tokens are free on a provisioned deployment."""
        if isinstance(self._limiter, Utilisation):
            spent = charge.input_tokens - charge.cached_tokens + charge.output_tokens
            self._limiter.correct(spent - estimated_tokens)

    def utilisation(self, now: float) -> float | None:
        """Utilisation in per cent; None unless the deployment is provisioned."""
        return self._limiter.utilisation(now) if isinstance(self._limiter, Utilisation) else None

    def headers(self, now: float) -> dict[str, str]:
        """x-ms-deployment-name and x-ratelimit-*, or the utilisation of a provisioned deployment."""
        headers = self._limiter.headers(now)
        headers["x-ms-deployment-name"] = self.name
        return headers


def _operation_name(path: str) -> str:
    return "".join(part.capitalize() for part in path.split("/") if "{" not in part) + "_Create"
