"""The rights of a consumer's call: what its product and its team leave of the consumer's own."""

import msgspec

from shared.concurrency import LruDict
from shared.config.callers import Bounds, Product
from shared.config.document import Configuration
from shared.errors import ProductNotAllowed
from shared.types import Consumer

_MOST_KEPT = 10_000  # pairs of consumer and product


class Subscriptions:
    """The rights of consumers under the products of one configuration, each computed once."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._effective: LruDict[tuple[str, str], tuple[Consumer, Consumer]] = LruDict(_MOST_KEPT)

    def effective(self, consumer: Consumer) -> Consumer:
        """The same as `within_bounds`."""
        if not (self._configuration.products or consumer.products or consumer.team in self._configuration.teams):
            return consumer
        key = (consumer.id, consumer.product)
        kept = self._effective.get(key)
        if kept is not None and kept[0] == consumer:
            return kept[1]
        effective = within_bounds(consumer, self._configuration)
        self._effective[key] = (consumer, effective)
        return effective


def within_bounds(consumer: Consumer, configuration: Configuration) -> Consumer:
    """The consumer with the rights that its product, as in `under_product`, and its team leave. Raises
    `ProductNotAllowed`."""
    consumer = under_product(consumer, configuration)
    team = configuration.teams.get(consumer.team)
    return _restricted(consumer, team, configuration) if team is not None else consumer


def under_product(consumer: Consumer, configuration: Configuration) -> Consumer:
    """The consumer with the rights that it has under the product that its caller names, else under its first
    subscription in force. Without subscriptions and products nothing changes. Raises `ProductNotAllowed`."""
    if not (configuration.products or consumer.products):
        return consumer
    usable = subscriptions(consumer, configuration)
    named = consumer.product or next(iter(usable), "")
    if named in usable:
        restricted = _restricted(consumer, configuration.products[named], configuration)
        return msgspec.structs.replace(restricted, product=named)
    if named:
        has = f"It has subscribed to: {', '.join(usable)}" if usable else "It has no subscription"
        raise ProductNotAllowed(f"This key has not subscribed to the product {named!r}. {has}.", param="product")
    if consumer.products:
        raise ProductNotAllowed(
            f"This key's products ({', '.join(consumer.products)}) were removed or are closed to its team. Ask the "
            "gateway's operator for another subscription.",
            param="product",
        )
    return consumer


def subscriptions(consumer: Consumer, configuration: Configuration) -> list[str]:
    """The subscriptions of a consumer that are in force: the product exists, and is open to the consumer's team."""
    products = configuration.products
    return [name for name in consumer.products if name in products and is_open_to(products[name], consumer.team)]


def is_open_to(product: Product, team: str) -> bool:
    """True if the consumers of a team ("": of none) may subscribe."""
    return product.teams is None or team in product.teams


def _restricted(consumer: Consumer, bounds: Bounds, configuration: Configuration) -> Consumer:
    access, models = consumer.access, consumer.models
    if bounds.models is not None:  # by the models' own names: both sets may have aliases
        own = None if models is None else frozenset(map(configuration.canonical, models))
        models = _intersection(own, frozenset(map(configuration.canonical, bounds.models)))
    if bounds.regions is not None or bounds.data_zones is not None:
        access = msgspec.structs.replace(
            access,
            regions=_intersection(access.regions, bounds.regions),
            data_zones=_intersection(access.data_zones, bounds.data_zones),
        )
    return msgspec.structs.replace(consumer, models=models, access=access)


def _intersection(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """The names in both; None stands for all names."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
