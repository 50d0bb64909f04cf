"""The URLs of receivers of alerts as operators read them: the host, and a digest in place of the rest, which is a
secret. The digest shows changes, and lets a document that was read be written back. Pure."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

_KEY = "url"  # of the document: no other entry holds a secret, but the name of one
_MASKED = re.compile(r"(https?://[^/?#]*/)?…[0-9a-f]{8}")


def masked(data: Any) -> Any:
    """Data of a document with its secret URLs masked."""
    return _mapped(data, mask)


def unmasked(sections: dict[str, Any], *known: Any) -> dict[str, Any]:
    """Sections of a document with the URLs that these others have in place of their masks. A URL that they do not have
    stays masked, and is invalid.

    Only where receivers are, of which no complaint shows a value: elsewhere one would show the secret."""
    urls = {mask(url): url for one in known for url in _urls(one)}

    def change(value: Any) -> Any:
        return _mapped(value, lambda text: urls.get(text, text))

    result = {name: change(value) if name == "alerts" else value for name, value in sections.items()}
    limits = result.get("limits")
    if isinstance(limits, Mapping) and "webhook" in limits:
        result["limits"] = {**limits, "webhook": change(limits["webhook"])}
    return result


def problem(url: str) -> str:
    """The complaint about a URL that is masked, or ""."""
    return "it is masked, and the current configuration has no such URL: write it in full" if "…" in url else ""


def mask(url: str) -> str:
    """A URL without what may be secret: its path, its query, and a password. One that has none stays as it is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    plain = parts.scheme and parts.netloc and "@" not in parts.netloc and f"{parts.scheme}://{parts.netloc}"
    if _MASKED.fullmatch(url) or url.removesuffix("/") == plain:
        return url
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/" if parts.scheme and parts.netloc else ""
    return f"{host}…{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _urls(data: Any) -> Iterator[str]:
    if isinstance(data, list):
        for item in data:
            yield from _urls(item)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            if key == _KEY and isinstance(value, str):
                yield value
            yield from _urls(value)


def _mapped(data: Any, change: Callable[[str], str]) -> Any:
    """A copy of data with every URL changed."""
    if isinstance(data, list):
        return [_mapped(item, change) for item in data]
    if isinstance(data, Mapping):
        return {
            key: change(value) if key == _KEY and isinstance(value, str) else _mapped(value, change)
            for key, value in data.items()
        }
    return data
