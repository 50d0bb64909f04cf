"""The credentials in the headers of a request. Pure."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from shared.auth import keys
from shared.auth._jwt import looks_like_token
from shared.errors import InvalidApiKey

_LONG_HEADERS = 300  # characters: longer ones hold no key, and are not cached


class Presented(NamedTuple):
    """`key` has the shape of a gateway key; `others` may be foreign keys, in the order in which they count; `token` is
    a JWT. "": none. `misplaced`: a token is in a header for keys. `subscription` is the one of the texts behind which a
    product may be named; `product` is the one named with `key`, or, without a `key`, with `subscription`."""

    key: str
    others: tuple[str, ...]
    token: str
    misplaced: bool
    subscription: str
    product: str


def presented(headers: Mapping[str, str]) -> Presented:
    """The credentials in the headers. Raises `InvalidApiKey` if there are none."""
    get = headers.get
    values = get("authorization", ""), get("api-key", ""), get("ocp-apim-subscription-key", ""), get("x-api-key", "")
    return _choose_cached(*values) if sum(map(len, values)) <= _LONG_HEADERS else _choose(*values)


def _choose(authorization: str, api_key: str, subscription_key: str, anthropic_key: str) -> Presented:
    scheme, _, rest = authorization.partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else ""
    subscription, _, suffix = subscription_key.partition(";")
    subscription = subscription.strip()
    texts = dict.fromkeys((bearer, api_key.strip(), subscription, anthropic_key.strip()))
    candidates = [text for text in texts if text]
    if not candidates:
        raise InvalidApiKey("No API key: send it as Authorization: Bearer KEY, or in the header api-key or x-api-key.")
    tokens = [text for text in candidates if looks_like_token(text)]
    name, _, product = suffix.strip().partition("=")
    valid = name.lower() == "product" and product.isascii() and product.isprintable()
    key = next((text for text in candidates if keys.has_shape(text)), "")
    return Presented(
        key=key,
        others=tuple(text for text in candidates if text not in tokens),
        token=bearer if bearer in tokens else "",
        misplaced=bool(tokens) and bearer not in tokens,
        subscription=subscription,
        product=product[:64] if valid and key in ("", subscription) else "",
    )


_choose_cached = functools.lru_cache(maxsize=8192)(_choose)  # a caller sends the same headers with every request
