"""Charges as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification: one row per day, line and class. Pure.

Source: focus.finops.org, "FOCUS 1.2, Columns". Tokens are priced per million, capacity per unit-hour. Columns beyond
FOCUS begin with `x_`, as it prescribes. A charge without a known price has empty costs and sets `x_Unpriced`: a zero
would look like a price.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from shared.billing.charges import UNUSED, Charge, Tariff
from shared.billing.cost import Part, Price, exactly, parts
from shared.config.document import Backend
from shared.token_classes import TOKEN_CLASSES, UNITS
from shared.usage import hours
from shared.usage.folds import NOBODY
from shared.usage.query import HourRange

# fmt: off
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "CapacityReservationId", "CapacityReservationStatus",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName",
    "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceId",
    "SubAccountId", "SubAccountName", "SubAccountType", "Tags", "x_Backend", "x_Estimated", "x_Role", "x_Unpriced",
)
# fmt: on
_FIXED = {
    "BillingAccountType": "Gateway",
    "BillingCurrency": "USD",
    "ChargeCategory": "Usage",
    "ChargeFrequency": "Usage-Based",
    "InvoiceIssuerName": "Microsoft",
    "PricingCurrency": "USD",
    "ProviderName": "Microsoft",
    "PublisherName": "Microsoft",
    "ResourceType": "Azure OpenAI deployment",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "Azure OpenAI",
    "ServiceSubcategory": "Generative AI",
    "SubAccountType": "Consumer",
}
_PER_MILLION = 10**6
_METERS = {  # price -> meter, consumed unit, priced unit, consumed units per priced unit
    unit.price: (unit.meter, unit.meter.partition(" of ")[0], unit.meter.partition(" of ")[0], 1)
    for unit in UNITS.values()
} | {"character": ("Characters", "Characters", "1000000 Characters", _PER_MILLION)}
_BLANK = dict.fromkeys(COLUMNS, "") | _FIXED


class Focus(NamedTuple):
    """Renders charges. `account` pays for everything; `consumers` maps ids to names; `listed` has the public prices."""

    account: str
    consumers: Mapping[str, str]
    backends: Mapping[str, Backend]
    listed: Tariff

    def rows(self, span: HourRange, charge: Charge) -> Iterator[dict[str, str]]:
        common = self._common(span, charge)
        if charge.unit_hour:
            yield common | self._capacity(charge)
        elif charge.picodollars is None:
            yield common | self._unpriced(charge)
        elif charge.price is not None:
            for part in parts(charge.price, charge.counts) or ():
                yield common | self._part(span, charge, part)

    def _common(self, span: HourRange, charge: Charge) -> dict[str, str]:
        line = charge.line
        backend = self.backends.get(line.backend)
        month = hours.month_start(span.first)
        model = line.model if line.served == NOBODY else line.served
        region = "" if line.region == NOBODY else line.region
        resource = backend.resource_id if backend is not None and backend.resource_id else line.backend
        tags = {name: getattr(line, name) for name in ("team", "product", "system") if getattr(line, name) != NOBODY}
        return _BLANK | {
            "BillingAccountId": self.account,
            "BillingAccountName": self.account,
            "BillingPeriodStart": _time(month),
            "BillingPeriodEnd": _time(hours.next_month(month)),
            "ChargePeriodStart": _time(span.first),
            "ChargePeriodEnd": _time(span.end),
            "RegionId": region,
            "RegionName": region,
            "ResourceId": f"{resource}/deployments/{line.deployment}",
            "ResourceName": line.deployment,
            "SkuId": model,
            "SubAccountId": line.key,
            "SubAccountName": self.consumers.get(line.key, ""),
            "Tags": json.dumps(tags, sort_keys=True) if tags else "",
            "x_Backend": line.backend,
            "x_Estimated": str(charge.counts.estimated),
            "x_Role": line.role,
            "x_Unpriced": "false",
        }

    def _part(self, span: HourRange, charge: Charge, part: Part) -> dict[str, str]:
        line = charge.line
        tokens = (f"{part.name.replace('_', ' ').title()} Tokens", "Tokens", "1000000 Tokens", 10**6)
        meter, consumed, priced, per = _METERS.get(part.name, tokens)
        each = _listed_price(self.listed.price(span, line), part.name)
        kind = " ".join(word for word in (line.tier, f"{line.context} context") if word != "default")
        return _costs(part.picodollars, round(part.amount * each) if each is not None else part.picodollars) | {
            "ChargeDescription": f"{meter} of {line.model}, {kind}, {line.region}",
            "ConsumedQuantity": _number(part.amount),
            "ConsumedUnit": consumed,
            "ContractedUnitPrice": exactly(part.each * per),
            "ListUnitPrice": exactly((part.each if each is None else each) * per),
            "PricingCategory": "Standard",
            "PricingQuantity": _number(part.amount / per),
            "PricingUnit": priced,
            "SkuMeter": meter,
            "SkuPriceId": "/".join((line.model, line.tier, line.context, part.name)),
        }

    def _capacity(self, charge: Charge) -> dict[str, str]:
        line, picodollars = charge.line, charge.picodollars or 0
        quantity = _number(picodollars / charge.unit_hour)
        return _costs(picodollars, picodollars) | {
            "CapacityReservationId": f"{line.backend}/{line.deployment}",
            "CapacityReservationStatus": "Unused" if line.role == UNUSED else "Used",
            "ChargeDescription": f"Provisioned throughput units of {line.model}, {line.region}",
            "ConsumedQuantity": quantity,
            "ConsumedUnit": "Unit Hours",
            "ContractedUnitPrice": exactly(charge.unit_hour),
            "ListUnitPrice": exactly(charge.unit_hour),
            "PricingCategory": "Committed",
            "PricingQuantity": quantity,
            "PricingUnit": "Unit Hours",
            "SkuMeter": "Provisioned Throughput Units",
            "SkuPriceId": f"{line.model}/provisioned",
        }

    def _unpriced(self, charge: Charge) -> dict[str, str]:
        line, counts = charge.line, charge.counts
        return {
            "ChargeDescription": f"Usage of {line.model}, price unknown, {line.region}",
            "ConsumedQuantity": str(counts.input_tokens + counts.output_tokens),
            "ConsumedUnit": "Tokens",
            "SkuMeter": "Tokens",
            "x_Unpriced": "true",
        }


def _costs(picodollars: int, listed: int) -> dict[str, str]:
    own = exactly(picodollars)
    return {"BilledCost": own, "ContractedCost": own, "EffectiveCost": own, "ListCost": exactly(listed)}


def _listed_price(price: Price | None, name: str) -> int | None:
    """The price by this name, else that of the total that includes the class."""
    if price is None:
        return None
    tokens = TOKEN_CLASSES.get(f"{name}_tokens")
    return price.each.get(name, price.each.get(tokens.part_of) if tokens else None)


def _number(amount: float) -> str:
    return f"{amount:.12f}".rstrip("0").rstrip(".")


def _time(hour: int) -> str:
    return datetime.fromtimestamp(hour * hours.HOUR, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
