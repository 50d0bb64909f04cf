"""Generates `shared/billing/prices.json` from public prices. For maintainers; the gateway does not run it.

    .venv/bin/python -m pip install --target /tmp/prices azure-genai-prices genai-prices
    PYTHONPATH=/tmp/prices .venv/bin/python -m local.price_table

The package `azure-genai-prices` contains the items of the Retail Prices API (prices.azure.com) with their regions. Its
parser reads the meter names of text models; this module reads those of audio and image models. DALL-E is excluded: its
price depends on size and quality, which the ledger does not record.

The package `genai-prices` has the list prices of OpenAI and Anthropic (`local/list_prices.py`). They fill what Azure's
list lacks: Claude, other models, tiers, and changes that are newer than the list. Lines with `deployment: openai` are
for backends of OpenAI itself. The table has only facts: model, deployment type, tier, regions, price and start date.
"""

import importlib
import importlib.metadata
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from local.list_prices import anthropic_lines, listed, openai_lines, own_lines
from shared.token_classes import AMOUNTS

OUTPUT = Path(__file__).resolve().parent.parent / "shared" / "billing" / "prices.json"
READ = "2026-11-29"  # the day on which Anthropic's prices, whose list has no days, were read
_PER = {"1M": 1.0, "1K": 1e3}  # a meter's unit -> factor to USD per million tokens
_NAMES = {  # meter name -> model name
    "gpt-4o-0513": "gpt-4o-2024-05-13",
    "gpt-4o-mini-0718": "gpt-4o-mini",
    "gpt-4.5-0227": "gpt-4.5-preview",
    "o1-1217": "o1",
    "o3-0416": "o3",
    "o4-mini-0416": "o4-mini",
    "o3-mini-0131": "o3-mini",
    "gpt-35-trb16k-125": "gpt-35-turbo",
    "gpt-35-turbo-16k-0125": "gpt-35-turbo",
    "gpt-35-turbo16k-0125": "gpt-35-turbo",
    "gpt-5-codex-ccchd": "gpt-5-codex",
    "gpt-4o-1120": "gpt-4o-2024-11-20",
    "gpt-5.2-chat-0210": "gpt-5.2-chat",
    "o3-deep-research-0626": "o3-deep-research",
    "oss-120b": "gpt-oss-120b",
}
_NO_MODEL = re.compile(
    r"(^|-)(ft|grader|grdr|file|calls|dev|rt|realtime|rtime|trb16k|turbo16k|turbo4k)(-|$)|^az-|latest|-(16k|4k|1106|\d*k)$"
)
_RENAMED = {"gpt-4-turbo128k": "gpt-4-turbo", "gpt-4-turbo-128k": "gpt-4-turbo"}
_KINDS = {"input": "input", "cache_read": "cached_input", "cache_write": "cache_write", "output": "output"}
_MEDIA = [  # pattern of audio and image meters -> model
    (r"(gpt )?(4o )?tcrb d\b", "gpt-4o-transcribe-diarize"),
    (r"gpt4o mn trscb|gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe"),
    (r"gpt-4o-transcribe", "gpt-4o-transcribe"),
    (r"gpt4o mn tts|gpt-4o-mini-tts", "gpt-4o-mini-tts"),
    (r"gpt4omini-aud", "gpt-4o-mini-audio-preview"),
    (r"gpt-4o-aud", "gpt-4o-audio-preview"),
    (r"gpt aud (mini|mn)", "gpt-audio-mini"),
    (r"gpt aud 1\.5", "gpt-audio-1.5"),
    (r"gpt aud 0828", "gpt-audio"),
    (r"gpt img 1 mini", "gpt-image-1-mini"),
    (r"gpt img 1\.5", "gpt-image-1.5"),
    (r"gpt-image-1", "gpt-image-1"),
    (r"image 2\b", "gpt-image-2"),
]
_UNITS = {  # not billed by tokens: meter -> (model, deployment type, field, factor)
    "Speech-to-Text-Batch-Whisper-glbl Unit": ("whisper", "global", "second", 1 / 3600),
    "Speech-to-Text-Batch-Whisper-regnl Unit": ("whisper", "regional", "second", 1 / 3600),
    "Speech-Text to Speech-global Characters": ("tts", "global", "character", 1.0),
    "Speech-Text to Speech HD-global Characters": ("tts-hd", "global", "character", 1.0),
    "file-search-tool-calls-glbl Calls": ("", "global", "file_search", 1 / 1000),
    "file-search-tool-calls-datazone Calls": ("", "data_zone", "file_search", 1 / 1000),
    "file-search-tool-calls-rgnl Calls": ("", "regional", "file_search", 1 / 1000),
    "Code-Interpreter-global Session": ("", "global", "code_session", 1.0),
    "Code-Interpreter-regnl EP Session": ("", "regional", "code_session", 1.0),
    "Provisioned Managed Global Unit": ("", "global", "unit_hour", 1.0),
    "Provisioned Managed Data Zone Unit": ("", "data_zone", "unit_hour", 1.0),
    "Provisioned Managed Regional Unit": ("", "regional", "unit_hour", 1.0),
}


class Key(NamedTuple):
    model: str
    deployment: str
    tier: str
    context: str
    field: str


class Price(NamedTuple):
    usd: float
    since: str


def classify(item: dict[str, Any], parse: Any) -> tuple[Key, float] | None:
    """Key and price of a meter, in USD per million tokens or per unit. None if the gateway does not serve it."""
    name, product = str(item["meterName"]), str(item["productName"])
    if name in _UNITS:
        model, deployment, field, factor = _UNITS[name]
        return Key(model, deployment, "standard", "short", field), item["retailPrice"] * factor
    factor = _PER.get(item["unitOfMeasure"], 0.0)
    if not product.startswith("Azure") or not factor or "PP FT" in product:
        return None
    key = _media(name) or _text(name, product, parse)
    return (key, item["retailPrice"] * factor) if key else None


def _text(name: str, product: str, parse: Any) -> Key | None:
    if re.search(r"aud|img|image|tts|transcri|trscb|tcrb|realtime|speech", name, re.I):
        return None
    meter = parse(name, product)
    if meter is None or meter.kind.value not in _KINDS:
        return None
    named = _RENAMED.get(meter.model, meter.model)
    if _NO_MODEL.search(named):
        return None
    context = meter.context.value
    if context == "long" and not product.startswith("Azure OpenAI"):
        return None  # other vendors' long context has another threshold
    model = _NAMES.get(named, named)
    return Key(model, meter.deployment.value, meter.mode.value, context, _KINDS[meter.kind.value])


def _media(name: str) -> Key | None:
    low = name.lower()
    model = next((model for pattern, model in _MEDIA if re.match(pattern, low)), None)
    if model is None:
        return None
    zone = re.search(r"\b(gl|glbl|dz|dzone|dzn|datazone|rg|rgnl|regnl)\b", low)
    deployment = {"g": "global", "d": "data_zone", "r": "regional"}[zone[0][0] if zone else "r"]
    cached = bool(re.search(r"\b(cd|cchd|cached)\b", low))
    sound = "aud" if re.search(r"audio|gpt aud|-aud|aud\b", low) else ""
    medium = "text" if re.search(r"\btxt\b", low) else ("audio" if sound or "aud" in low else "image")
    if cached and medium != "text":
        return None  # usage reports cached tokens as one sum, so they have one price
    output = bool(re.search(r"\b(out|outp|opt|output)\b", low))
    if cached:
        field = "cached_input"
    else:
        field = ("output" if output else "input") if medium == "text" else f"{medium}_{'output' if output else 'input'}"
    return Key(model, deployment, "batch" if "batch" in low else "standard", "short", field)


def lines(items: list[dict[str, Any]], parse: Any) -> Iterator[dict[str, Any]]:
    """One line with the price of most regions, and one per group of regions with other prices."""
    prices: defaultdict[Key, dict[str, Price]] = defaultdict(dict)
    for item in sorted(items, key=lambda item: str(item["effectiveStartDate"])):  # later items override earlier ones
        if classified := classify(item, parse):
            key, usd = classified
            for region in item["regions"] or [""]:
                before = prices[key].get(region)
                same = before is not None and abs(before.usd - usd) < 1e-12
                since = before.since if before is not None and same else str(item["effectiveStartDate"])[:10]
                prices[key][region] = Price(round(usd, 10), since)
    variants: defaultdict[tuple[str, str, str, str, str], list[Key]] = defaultdict(list)
    for key in prices:  # prices of no model are apart from each other
        variants[*key[:4], "" if key.model else key.field].append(key)
    for (model, deployment, tier, context, _), keys in sorted(variants.items()):
        yield from _variant(model, deployment, tier, context, {key.field: prices[key] for key in keys})


def _variant(
    model: str, deployment: str, tier: str, context: str, fields: dict[str, dict[str, Price]]
) -> Iterator[dict[str, Any]]:
    if not fields.keys() & {"input", "second", "character", "file_search", "code_session", "unit_hour"}:
        return  # an incomplete group: its other meters have another model name
    fields = dict(sorted(fields.items(), key=lambda field: AMOUNTS.index(field[0])))
    usual = {name: Counter(price.usd for price in by.values()).most_common(1)[0][0] for name, by in fields.items()}
    groups: defaultdict[tuple[tuple[str, float], ...], list[str]] = defaultdict(list)
    for region in sorted(set().union(*fields.values())):
        regional = {name: by[region].usd if region in by else usual[name] for name, by in fields.items()}
        groups[tuple(sorted(regional.items()))].append(region)
    head: dict[str, Any] = {"model": model, "deployment": deployment}
    if tier != "standard":
        head["tier"] = tier
    if context != "short":
        head["context"] = context
    since = min(price.since for by in fields.values() for price in by.values())
    yield {**head, "from": since, **usual}
    for amounts, regions in sorted(groups.items(), key=lambda group: group[1]):
        if dict(amounts) != usual:
            yield {**head, "from": since, "regions": regions, **{name: dict(amounts)[name] for name in fields}}


def _group(source: str, day: str, rows: list[dict[str, Any]]) -> str:
    text = ",\n".join(json.dumps({name: value for name, value in row.items() if value != ""}) for row in rows)
    return f'{{"publisher": {json.dumps(source)}, "day": "{day}", "prices": [\n{text}\n]}}'


def main() -> None:
    try:
        parse = importlib.import_module("azure_genai_prices.meters").parse_meter_name
        package = importlib.import_module("azure_genai_prices")
        providers = importlib.import_module("genai_prices.data").providers
    except ImportError as error:
        sys.exit(f"{error}: see the docstring of local/price_table.py")
    source = Path(str(package.__file__)).parent / "data" / "snapshot.json"
    snapshot = json.loads(source.read_text())
    day = snapshot["fetched_at"][:10]
    azure = list(lines(snapshot["items"], parse))
    [itself] = [provider for provider in providers if provider.id == "openai"]
    models = itself.models
    version = importlib.metadata.version("genai-prices")
    tools = [model.prices for model in models if model.id in ("gpt-6-sol", "gpt-5.5")]
    [searches] = {prices.web_searches_kcount for prices in tools}
    [file_searches] = {prices.storage_searches_kcount for prices in tools}
    openai = [{"web_search": float(searches) / 1000}, *openai_lines(models, azure, day)]
    openai += [{"deployment": "openai", "file_search": float(file_searches) / 1000}, *own_lines(itself, azure, openai)]
    checked = max(price.since for price in listed(models))
    [claudes] = [provider.models for provider in providers if provider.id == "anthropic"]
    anthropic = list(anthropic_lines(claudes))
    groups = [
        _group("Azure Retail Prices API (prices.azure.com), as carried by azure-genai-prices", day, azure),
        _group(f"OpenAI's list prices (openai.com), as carried by genai-prices {version}", checked, openai),
        _group(f"Anthropic's list prices (anthropic.com), as carried by genai-prices {version}", READ, anthropic),
    ]
    OUTPUT.write_text(f"[{', '.join(groups)}]\n")
    print(f"{OUTPUT}: {len(azure)} prices of Azure, {len(openai)} of OpenAI, {len(anthropic)} of Anthropic")


if __name__ == "__main__":
    main()
