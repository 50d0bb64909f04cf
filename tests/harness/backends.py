"""Backends for a configuration, and an error response of theirs."""

from collections.abc import Sequence
from typing import Any

from shared.config.document import Backend

DENIED = {"error": {"code": "PermissionDenied", "message": "The principal lacks the required data action."}}
"""The body of a 401 for an identity without the role that inference needs."""


def backend(name: str, models: Sequence[str] = ("m",), **more: Any) -> Backend:
    """A backend whose deployments have the names of their models."""
    return Backend(name=name, endpoint=f"https://{name}", region=name, models={m: m for m in models}, **more)
