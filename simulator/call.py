"""A call as an operation sees it: ids of its path, query, body or form, and the region that it came to."""

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
    """The deployments of a region, as one call may use them."""

    @property
    def models(self) -> list[Model]: ...

    def check_path(self) -> None:
        """Raises AzureError 404 where the path names a deployment that is not there."""

    def find(self, name: str | None) -> Deployment:
        """The deployment of the path, else that of this name. Raises AzureError 400 or 404."""

    def admit(self, deployment: Deployment, estimated_tokens: int) -> None:
        """Raises AzureError 429."""


class Call:
    """`dated_version` is None on the v1 surface. `charge_late` is for what is done after the answer."""

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
        self.deployments = deployments
        self.charge_late = charge_late

    @property
    def id(self) -> str:
        """The first id of the path."""
        return self.ids[0]

    def with_body(self, body: bytes) -> "Call":
        """The same call, asked something else."""
        asked = copy.copy(self)
        asked.body = body
        return asked

    def decode[T](self, kind: type[T]) -> T:
        """The body. An empty one counts as an object without keys. Raises AzureError 400."""
        if self.form is not None:
            raise errors.not_json()
        return decode_json(self.body or b"{}", kind)

    def multipart(self) -> Form:
        """Raises AzureError 400 for a body of another kind."""
        if self.form is None:
            raise errors.invalid_form()
        return self.form

    def deployment(self, model: str | None, estimated_tokens: int) -> Deployment:
        """The deployment that is asked for, after its rate limit. Raises AzureError 400, 404 or 429."""
        found = self.deployments.find(model)
        self.deployments.admit(found, estimated_tokens)
        return found


Handler = Callable[[Call], Answer]


class Route(msgspec.Struct, frozen=True):
    """`path` follows the surface's prefix, `{id}` stands for one segment. `on_deployment`: the dated surface has it
    below `/deployments/{name}` only. `streams`: its answer is a stream whatever the body says."""

    method: str
    path: str
    handler: Handler
    on_deployment: bool = False
    streams: bool = False


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_json[T](body: bytes, kind: type[T]) -> T:
    """Raises AzureError: a 400 that names the parameter where a type or range is wrong."""
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
