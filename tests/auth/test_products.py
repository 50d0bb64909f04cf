"""The rights that a product and a team leave of a consumer's own."""

import pytest

from shared.auth.products import Subscriptions, under_product, within_bounds
from shared.config.callers import Product, Team
from shared.config.document import Backend, Configuration, Model
from shared.errors import ProductNotAllowed
from shared.types import Access, Consumer

CONFIGURATION = Configuration(
    backends=[
        Backend(name="a", endpoint="https://a", region="swedencentral", models={"large": "large", "small": "small"})
    ],
    models={"small": Model(aliases=["mini"])},
    products={
        "chat": Product(models=frozenset(("mini", "large")), regions=frozenset(("swedencentral", "eastus2"))),
        "open": Product(),
        "research": Product(teams=frozenset(("lab",))),
        "european": Product(data_zones=frozenset(("eu",))),
    },
    teams={"bound": Team(models=frozenset(("mini",)), data_zones=frozenset(("eu",))), "free": Team()},
)


def consumer(*products: str, named: str = "", **more: object) -> Consumer:
    return Consumer("c", "tests", products=products, product=named, **more)  # type: ignore[arg-type]


def test_without_products_a_named_one_is_a_label_and_nothing_changes() -> None:
    caller = consumer(named="whatever")
    assert under_product(caller, Configuration(backends=[])) is caller


def test_a_key_without_subscriptions_that_names_none_is_what_it_was() -> None:
    caller = consumer()
    assert under_product(caller, CONFIGURATION) is caller


def test_the_first_subscription_in_force_is_the_default() -> None:
    assert under_product(consumer("gone", "open", "chat"), CONFIGURATION).product == "open"
    assert under_product(consumer("open", "chat", named="chat"), CONFIGURATION).product == "chat"


@pytest.mark.parametrize(
    ("caller", "message"),
    [
        (consumer("open", "chat", named="research"), "'research'. It has subscribed to: open, chat."),
        (consumer("open", "gone", named="gone"), "'gone'. It has subscribed to: open."),
        (consumer("open", "research", named="research", team="sales"), "'research'. It has subscribed to: open."),
        (consumer(named="chat"), "'chat'. It has no subscription."),
        (consumer("gone", named="gone"), "'gone'. It has no subscription."),
        (consumer("gone", "research"), "were removed or are closed to its team"),
    ],
)
def test_a_product_without_a_subscription_in_force_is_refused(caller: Consumer, message: str) -> None:
    with pytest.raises(ProductNotAllowed) as refused:
        under_product(caller, CONFIGURATION)
    assert message in refused.value.message
    assert (refused.value.status, refused.value.code) == (403, "product_not_allowed")


def test_a_consumer_whose_products_are_all_deleted_may_call_nothing() -> None:
    with pytest.raises(ProductNotAllowed):
        under_product(consumer("gone"), Configuration(backends=[]))


def test_a_team_opens_the_products_that_are_open_to_it() -> None:
    assert under_product(consumer("research", team="lab"), CONFIGURATION).product == "research"


@pytest.mark.parametrize(
    ("own", "left"),
    [
        (None, {"small", "large"}),
        (frozenset(("mini", "other")), {"small"}),
        (frozenset(("small",)), {"small"}),
        (frozenset(("other",)), set()),
    ],
)
def test_models_are_those_of_both_by_their_own_names(own: frozenset[str] | None, left: set[str]) -> None:
    assert under_product(consumer("chat", models=own), CONFIGURATION).models == frozenset(left)


def test_a_product_without_models_and_regions_leaves_those_of_the_consumer() -> None:
    access = Access(regions=frozenset(("japaneast",)), pin=True)
    under = under_product(consumer("open", models=frozenset(("large",)), access=access), CONFIGURATION)
    assert (under.models, under.access) == (frozenset(("large",)), access)


def test_regions_and_data_zones_are_those_of_both_and_permissions_stay() -> None:
    access = Access(regions=frozenset(("eastus2", "japaneast")), data_zones=frozenset(("us",)), pin=True)
    assert under_product(consumer("chat", access=access), CONFIGURATION).access == Access(
        regions=frozenset(("eastus2",)), data_zones=frozenset(("us",)), pin=True
    )
    assert under_product(consumer("european", access=access), CONFIGURATION).access.data_zones == frozenset()
    assert under_product(consumer("european"), CONFIGURATION).access.data_zones == frozenset(("eu",))


def test_rights_are_computed_once_and_again_when_the_consumer_has_changed() -> None:
    subscriptions = Subscriptions(CONFIGURATION)
    first = subscriptions.effective(consumer("chat"))
    assert subscriptions.effective(consumer("chat")) is first
    assert subscriptions.effective(consumer("chat", models=frozenset(("small",)))).models == frozenset(("small",))
    assert subscriptions.effective(consumer("open", "chat", named="chat")).product == "chat"
    assert subscriptions.effective(consumer("open", "chat")).product == "open"


def test_a_team_bounds_its_keys_with_and_without_a_product_and_whatever_they_say_of_themselves() -> None:
    subscriptions = Subscriptions(CONFIGURATION)
    wide = Access(data_zones=frozenset(("eu", "us")))
    for caller in (consumer(team="bound", access=wide), consumer("chat", team="bound")):
        left = subscriptions.effective(caller)
        assert (left.models, left.access.data_zones) == (frozenset(("small",)), frozenset(("eu",)))
        assert left.product == ("chat" if caller.products else "")
    assert subscriptions.effective(consumer(team="bound", models=frozenset(("large",)))).models == frozenset()
    other = consumer(team="other", access=wide)
    assert subscriptions.effective(other) is other
    assert within_bounds(consumer(team="free", access=wide), CONFIGURATION).access == wide
