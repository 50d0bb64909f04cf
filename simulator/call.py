"""A call as its operation receives it: path ids, query, body or form, and the region's state."""

import copy
import functools
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, cast

import msgspec

from . import errors
from .answers import Answer, Charge
from .deployments import Deployment
from .forms import Form
from .models import Model
from .request_log import LogEntry
from .store import Store

_POSITION = re.compile(r"^(?P<detail>.*) - at `\$\.?(?P<path>.*)`$")


class Deployments(Protocol):
    """The deployments of a region, for one call."""

    @property
    def models(self) -> list[Model]: ...

    def check_path(self) -> None:
        """Raises AzureError 404 if the path names an unknown deployment."""

    def find(self, name: str | None) -> Deployment:
        """The deployment in the path, otherwise the one of this name. Raises AzureError 400 or 404."""

    def admit(self, deployment: Deployment, estimated_tokens: int) -> None:
        """Raises AzureError 429."""


class Call:
    """`dated_version` is None on the v1 surface. `filters`: answers have the results of content filters. `charge_late`
    bills work done after the answer."""

    def __init__(
        self,
        *,
        store: Store,
        ids: tuple[str, ...],
        query: Mapping[str, str],
        body: bytes,
        form: Form | None,
        entry: LogEntry,
        dated_version: str | None,
        filters: bool,
        deployments: Deployments,
        charge_late: Callable[[Charge], None],
    ) -> None:
        self.store = store
        self.ids = ids
        self.query = query
        self.body = body
        self.form = form
        self.entry = entry
        self.dated_version = dated_version
        self.filters = filters
        self.deployments = deployments
        self.charge_late = charge_late

    @property
    def id(self) -> str:
        """The first id in the path."""
        return self.ids[0]

    def with_body(self, body: bytes) -> "Call":
        """A copy of the call with another body."""
        call = copy.copy(self)
        call.body = body
        return call

    def decode[T](self, kind: type[T], required: tuple[str, ...] = ()) -> T:
        """The body; an empty one counts as `{}`. Raises AzureError 400, also if a `required` field is None."""
        if self.form is not None:
            raise errors.not_json()
        request = decode_json(self.body or b"{}", kind)
        for name in required:
            if getattr(request, name) is None:
                raise errors.missing_parameter(name)
        return request

    def multipart(self) -> Form:
        """The form. Raises AzureError 400 for any other body."""
        if self.form is None:
            raise errors.invalid_form()
        return self.form

    def deployment(self, model: str | None, estimated_tokens: int) -> Deployment:
        """The requested deployment, charged against its rate limit. Raises AzureError 400, 404 or 429."""
        deployment = self.deployments.find(model)
        self.deployments.admit(deployment, estimated_tokens)
        return deployment


Handler = Callable[[Call], Answer]


class Route(msgspec.Struct, frozen=True):
    """`path` is relative to the surface's prefix; `{id}` matches one segment. `on_deployment`: on the dated surface the
    path is below `/deployments/{name}`. `streams`: the answer is always a stream. `azure_alone`: OpenAI does not have
    it; `anthropic_alone`: no Foundry resource has it."""

    method: str
    path: str
    handler: Handler
    on_deployment: bool = False
    streams: bool = False
    azure_alone: bool = False
    anthropic_alone: bool = False


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_json[T](body: bytes, kind: type[T]) -> T:
    """Raises AzureError 400, which names the parameter if its type or range is wrong."""
    try:
        decoded: T = _decoder(cast(Hashable, kind)).decode(body)
        return decoded
    except msgspec.ValidationError as error:
        position = _POSITION.match(str(error))
        if position is None:
            raise errors.invalid_request(str(error)) from error
        param = position["path"]
        raise errors.invalid_request(f"Invalid value for '{param}': {position['detail']}.", param) from error
    except errors.DECODE_FAILURES as error:
        raise errors.not_json() from error
