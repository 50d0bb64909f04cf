"""The configuration that a policy of API Management becomes, with what there is to say about each of its lines."""

import ipaddress
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from shared.cli._apim_xml import Element

Kind = Literal["carried over", "differs", "to do", "not carried over"]


class Note(NamedTuple):
    """The outcome of a policy. `line` 0: of none."""

    line: int
    policy: str
    kind: Kind
    text: str


class DraftBackend(msgspec.Struct):
    """A backend, with its address or, for an entity of API Management, its name only."""

    name: str
    endpoint: str
    priority: int
    line: int


class Draft:
    """Collects sections, backends and notes while a policy is read."""

    def __init__(self) -> None:
        self.sections: dict[str, Any] = {}
        self.notes: list[Note] = []
        self.backends: list[DraftBackend] = []
        self.auth: Any = "managed_identity"
        self.api_version = ""
        self.models: dict[str, str] = {}

    def note(self, element: Element | None, kind: Kind, text: str) -> None:
        line, name = (element.line, element.name) if element is not None else (0, "")
        self.notes.append(Note(line, name, kind, text))

    def carried(self, element: Element | None, text: str) -> None:
        self.note(element, "carried over", text)

    def differs(self, element: Element | None, text: str) -> None:
        self.note(element, "differs", text)

    def todo(self, element: Element | None, text: str) -> None:
        self.note(element, "to do", text)

    def drop(self, element: Element | None, text: str) -> None:
        self.note(element, "not carried over", text)

    def put(self, element: Element, path: str, value: Any) -> None:
        """Set a key of the configuration. Of two limits at one place the smaller one holds."""
        *parents, key = path.split(".")
        at = self.sections
        for parent in parents:
            at = at.setdefault(parent, {})
        former = at.get(key)
        if former not in (None, value):
            if isinstance(value, int | float) and isinstance(former, int | float):
                value = min(value, former)
                self.differs(element, f"{path} is set by two policies: the smaller one, {value}, applies")
            else:
                self.drop(element, f"{path} is {former} by an earlier policy, not {value}")
                return
        at[key] = value
        self.carried(element, f"{path}: {value}")

    def add_backend(self, element: Element | None, address: str, name: str, priority: int) -> None:
        """A backend at this address, which may have a path; with only a `name`, one whose address is not known."""
        parts = urlsplit(address if "//" in address else f"https://{address}")
        host = parts.netloc.rpartition("@")[2]
        endpoint = f"{parts.scheme}://{host}" if host else f"https://{_label(name)}.openai.azure.com"
        if host and not name:
            name = _name_of(parts.hostname or "")
        for known in self.backends:
            if known.endpoint == endpoint:
                known.priority = min(known.priority, priority)
                return
        taken = {known.name for known in self.backends}
        name = _label(name) if _label(name) not in taken else f"{_label(name)}-{len(taken) + 1}"
        line = element.line if element is not None else 0
        self.backends.append(DraftBackend(name, endpoint, priority, line))
        self.carried(element, f"backends: {name} at {endpoint}, priority {priority}")
        if not host:
            self.todo(element, f"backends: add the address of {name}, which is not in the policy")
        elif host.endswith(".azure-api.net"):
            self.todo(element, f"backends: {host} is API Management itself: add the resource behind it")

    def document(self) -> dict[str, Any]:
        if not self.backends:
            self.add_backend(None, "", "your-resource", 1)
        models = self.models or {"MODEL": "DEPLOYMENT"}
        if not self.models:
            self.todo(None, "backends: add each model with its deployment (or pass --models)")
        self.todo(None, "backends: add each region: prices and `--regions` of keys depend on it")
        backends = [
            {
                **{"name": backend.name, "endpoint": backend.endpoint, "region": "unknown", "auth": self.auth},
                **({"api_version": self.api_version} if self.api_version else {}),
                **{"models": dict(models), "priority": backend.priority},
            }
            for backend in self.backends
        ]
        return {"backends": backends, **self.sections}


def _name_of(host: str) -> str:
    """A backend's name: the first label of its host; all of an address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.partition(".")[0]


def _label(name: str) -> str:
    """A name of letters, digits and dashes, which may be part of a host."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60] or "backend"
