"""Reads the body of a batch of messages, one request after the other: the models and objects that each names, and its
size. No I/O."""

import re
from collections.abc import Iterator, Mapping

import msgspec

from shared.azure_openai import model_paths, references, requests
from shared.azure_openai.json_body import UNREADABLE, JsonFields, top_level
from shared.azure_openai.operations import Route
from shared.azure_openai.outline import LARGE, Outline
from shared.config.document import Backend
from shared.errors import InvalidRequest
from shared.types import BatchedRequests, Call, Reference

CREATE = "messages.batches.create"  # the operation
_MOST_REQUESTS = 100_000  # as Anthropic takes
_MOST_CONTAINERS = 2_000_000  # objects and arrays; each takes half a microsecond
_DEEPEST = 256
_MOST_REFERENCES = 1000  # each may need a lookup
_MOST_MODELS = 100
_MOST_BESIDE = 64 * 1024  # bytes beside the requests
_LONGEST = 4 * 1024 * 1024  # bytes of a request beside its long texts
_STEP = 20_000  # texts and brackets that are read at a time: about 10 ms
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A text that never ends is one token, too: it would be read again from each of its quotes.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_QUOTE, _ARRAY, _OBJECT, _ENDS = b'"'[0], b"["[0], b"{"[0], b"]}"
_BLANKS = b" \t\r\n"


class BatchReader:
    """Reads one body in steps, between which other calls go on: `read` until it returns True, then `call`. Both raise
    `InvalidRequest`."""

    def __init__(self, body: bytes) -> None:
        self._body = body.removeprefix(_BYTE_ORDER_MARK)
        self._tokens: Iterator[re.Match[bytes]] = _TOKEN.finditer(self._body)
        self._depth = self._containers = 0
        self._key = b""  # the last text at the top level
        self._list = (0, 0)  # the places of the brackets around the requests
        self._inside = False
        self._began = self._ended = 0  # of a request
        self._places: list[tuple[int, int, str]] = []
        self._named: dict[Reference, None] = {}
        self._models: dict[str, None] = {}
        self._others: dict[str, None] = {}  # models that requests name besides their own
        self._bytes = self._most_tokens = 0

    def read(self) -> bool:
        """Read the next texts and brackets. Return True at the end."""
        body = self._body
        for _ in range(_STEP):
            if (token := next(self._tokens, None)) is None:
                self._finish()
                return True
            at = token.start()
            first = body[at]
            if first == _QUOTE:
                if self._depth == 1:
                    self._key = token[0]
            elif first in _ENDS:
                self._close(at)
            else:
                self._open(at, first)
        return False

    def _open(self, at: int, bracket: int) -> None:
        self._depth += 1
        self._containers += 1
        if self._depth > _DEEPEST:
            raise InvalidRequest("The body is nested too deeply.")
        if self._containers > _MOST_CONTAINERS:
            raise InvalidRequest(f"The body has more than {_MOST_CONTAINERS} objects and arrays: send smaller batches.")
        if self._depth == 2 and bracket == _ARRAY and not self._list[0] and self._key == b'"requests"':
            self._list, self._inside, self._ended = (at, 0), True, at + 1
        elif self._inside and self._depth == 3:
            expected = b"," if self._places else b""
            if bracket != _OBJECT or self._body[self._ended : at].strip(_BLANKS) != expected:
                raise self._wrong("expected a JSON object")
            self._began = at

    def _close(self, at: int) -> None:
        self._depth -= 1
        if self._inside and self._depth == 2:
            self._ended = at + 1
            self._take(self._body[self._began : self._ended])
        elif self._inside and self._depth == 1:
            if self._body[self._ended : at].strip(_BLANKS):
                raise self._wrong("expected a JSON object")
            self._list, self._inside = (self._list[0], at), False

    def _take(self, request: bytes) -> None:
        if len(self._places) >= _MOST_REQUESTS:
            message = f"requests: expected at most {_MOST_REQUESTS}; send several batches."
            raise InvalidRequest(message, param="requests")
        try:
            values = top_level(request)
            fields = JsonFields(request, values)
            fields.get("custom_id", str, "a text")
            params = fields.raw("params")
            if not params.startswith(b"{"):
                raise InvalidRequest("expected `params`, a JSON object")
            inner = top_level(params)
            read = JsonFields(params, inner)
            if not (model := read.get("model", str, "a string that names a model")):
                raise InvalidRequest("The field `model` is missing: name the model to call.")
            self._most_tokens += read.tokens("max_tokens") or 0
            outline = Outline.of(params, _LONGEST) if len(params) > LARGE else None
            others = model_paths.in_request(params, inner, "messages.create", outline)
            named, _ = references.in_request(params, "messages.create", outline)
        except InvalidRequest as error:
            raise self._wrong(error.message) from None
        except (RecursionError, ValueError) as error:
            raise self._wrong(references.too_complex(error, "It").message) from None
        begins = self._began + values["params"].start
        self._places.append((begins + inner["model"].start, begins + inner["model"].stop, model))
        self._named |= dict.fromkeys(named)
        self._models[model] = None
        self._others |= dict.fromkeys(other for other in others if other != model)
        self._bytes += len(params)
        if len(self._models) + len(self._others) > _MOST_MODELS:
            raise InvalidRequest(f"The body names more than {_MOST_MODELS} models.")
        if len(self._named) > _MOST_REFERENCES:
            raise InvalidRequest(f"The body names more than {_MOST_REFERENCES} objects.")

    def _wrong(self, complaint: str) -> InvalidRequest:
        place = f"requests[{len(self._places)}]"
        return InvalidRequest(f"{place}: {complaint.rstrip('.')}.", param=place)

    def _finish(self) -> None:
        """Check what stands around the requests."""
        begins, ends = self._list
        around = self._body[: begins + 1] + self._body[ends:] if ends else self._body
        if len(around) > _MOST_BESIDE:
            raise InvalidRequest(f"The body has no requests, or more than {_MOST_BESIDE} bytes outside them.")
        top_level(around)
        if not self._places:
            raise InvalidRequest("The body has no requests: expected `requests`, a list of one or more.", "requests")

    def call(self, route: Route, query: str, headers: Mapping[str, str]) -> Call:
        """The call that makes the batch. The limits and the ledger count it for the model of its first request."""
        call = requests.parse_call(route, query, headers, b"")
        count = len(self._places)
        return msgspec.structs.replace(
            call,
            model=self._places[0][2],
            body=self._body,
            headers=call.headers | {"content-type": "application/json"},
            max_output_tokens=-(-self._most_tokens // count),
            other_models=tuple(self._others),
            references=tuple(self._named),
            batch=BatchedRequests(self._bytes, count, tuple(self._places)),
        )


def body_for(call: Call, backend: Backend) -> bytes:
    """The body of a batch with a backend's names for its models; every other byte is kept."""
    assert call.batch is not None
    models, deployments = call.batch.models, backend.deployments
    ours = {name: deployments.get(models.get(name, name), name) for name in call.batch.names}
    if all(name == deployment for name, deployment in ours.items()):
        return call.body
    raw = {name: msgspec.json.encode(deployment) for name, deployment in ours.items()}
    pieces, copied = list[bytes](), 0
    for start, stop, name in call.batch.places:
        pieces += (call.body[copied:start], raw[name])
        copied = stop
    return b"".join([*pieces, call.body[copied:]])


class _Batch(msgspec.Struct):
    id: str = ""
    results_url: str | None = None


_decode = msgspec.json.Decoder(_Batch).decode


def with_own_address(batch: bytes) -> bytes:
    """A batch as its backend reports it, with the path of its results at this gateway: a client that followed the
    backend's own address would send it the caller's key."""
    try:
        read = _decode(batch)
        if not read.results_url:
            return batch
        place = top_level(batch)["results_url"]
    except (*UNREADABLE, InvalidRequest, KeyError):
        return batch
    path = msgspec.json.encode(f"/v1/messages/batches/{read.id}/results")
    return batch[: place.start] + path + batch[place.stop :]
