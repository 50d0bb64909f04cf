"""Schema of prices."""

from typing import Literal

from shared.config.days import is_day
from shared.token_classes import AMOUNTS, TOOL_PRICES, Amounts

DeploymentType = Literal["global", "data_zone", "regional"]
"""The place where Azure processes a deployment's calls: anywhere, in its data zone, or in its resource's region."""

Deployment = Literal[DeploymentType, "openai"]
"""The kind of deployments that a price is for: a type of deployments of Azure's, or OpenAI itself."""

Tier = Literal["standard", "batch", "priority", "flex", "fast"]


class PriceLine(Amounts, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"since": "from"}):
    """One price, in the table and in the configuration: USD per million tokens or characters, per second of sound, per
    image, per call of a tool, per hour of a provisioned throughput unit. If several match a call, the most specific one
    applies: region before kind of deployment, then the latest `from` (YYYY-MM-DD, UTC). `deployment` None and empty
    `regions` match all."""

    model: str = ""
    deployment: Deployment | None = None
    regions: list[str] = []  # noqa: RUF012 - msgspec copies it
    tier: Tier = "standard"
    context: Literal["short", "long"] = "short"
    since: str = ""

    def problem(self) -> str | None:
        """The complaint about this line, None if it is consistent."""
        amounts = {name for name in AMOUNTS if getattr(self, name) is not None}
        if not amounts:
            return f"expected at least one of {', '.join(AMOUNTS)}"
        if "unit_hour" in amounts if self.model else not (amounts <= {*TOOL_PRICES} or amounts == {"unit_hour"}):
            tools = ", ".join(TOOL_PRICES)
            return f"expected either a model with its prices, or no model and only unit_hour, or only some of {tools}"
        return None if is_day(self.since) else f"from: expected a date as 2026-08-01, got {self.since!r}"
