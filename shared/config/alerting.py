"""The section `alerts` of the configuration document: receivers, events and formats."""

from collections.abc import Iterator
from typing import Literal, get_args
from urllib.parse import urlsplit

import msgspec

from shared.config import masking
from shared.errors import Complaint

Event = Literal[
    "quota_reached",
    "backend_ejected",
    "credentials_refused",
    "safe_mode_began",
    "safe_mode_ended",
    "usage_rows_waiting",
    "usage_rows_lost",
    "configuration_refused",
    "model_retires",
    "key_expires",
    "access_requested",
    "access_approved",
    "access_declined",
]
EVENTS: tuple[Event, ...] = get_args(Event)
Kind = Literal["generic", "teams", "slack"]


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The URL that receives alerts about quotas, and the environment variable with the secret that signs them. The
    older form of a `generic` receiver."""

    url: str
    secret_env: str


class ReceiverSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A receiver of alerts. `generic`: JSON, signed by Standard Webhooks with the secret in the environment variable
    `secret_env`. `teams`: a workflow that posts an Adaptive Card. `slack`: an incoming webhook. The URLs of the latter
    two are secrets, so `url_env` names an environment variable that holds one. `events`: empty for all."""

    kind: Kind = "generic"
    url: str | None = None
    url_env: str | None = None
    secret_env: str | None = None
    events: list[Event] = []


class AlertSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The receivers of alerts; without any, alerts are in the log only."""

    webhooks: list[ReceiverSettings] = []


class Receiver(msgspec.Struct, frozen=True):
    """A receiver of alerts, with the URL and the secret themselves. `secret` "": it is not signed. `place`: its key in
    the configuration."""

    kind: Kind
    url: str
    secret: str = ""
    events: frozenset[Event] = frozenset(EVENTS)
    place: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def __repr__(self) -> str:
        return f"Receiver({self.kind!r}, {self.host!r})"  # its path may be secret, too


def complaints(settings: AlertSettings) -> Iterator[Complaint]:
    for i, receiver in enumerate(settings.webhooks):
        at = f"alerts.webhooks[{i}]"
        if (receiver.url is None) == (receiver.url_env is None):
            expected = "expected either url or url_env, the name of an environment variable that holds the URL"
            yield Complaint(at, expected)
        if receiver.kind == "generic" and receiver.secret_env is None:
            expected = "expected the name of an environment variable with the secret of the signature"
            yield Complaint(f"{at}.secret_env", expected)
        if receiver.kind != "generic" and receiver.secret_env is not None:
            yield Complaint(f"{at}.secret_env", f"expected none, because {receiver.kind} checks no signature")
        if receiver.url is not None and (problem := url_problem(receiver.url)):
            expected = f"expected https://HOST/PATH, got another text, which is not shown ({problem})"
            yield Complaint(f"{at}.url", expected)


def url_problem(url: str) -> str:
    """The complaint about a receiver's URL, or "". It never shows the URL. Alerts leave over https only, except to this
    machine."""
    if masked := masking.problem(url):
        return masked
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "not a URL with a valid host and port"
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        return "not a URL with a host"
    if parts.username or parts.password:
        return "it must not contain a user name or a password"
    if parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
        return "http is allowed for this machine only"
    return ""
