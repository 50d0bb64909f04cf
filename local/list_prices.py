"""The list prices of OpenAI and Anthropic, from the package `genai-prices`, as lines of the table. Pure."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple

_OPENAI = re.compile(r"(gpt-\d|o\d|text-embedding|codex)")
_NOT_BY_TEXT = re.compile(
    r"audio|image|realtime|live|transcri|tts|extended|search|cyber|rosalind|vision|0301|16k|32k|\.ft"
)
_OPENAI_FIELDS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
}
_TIERS = ({"service_tier": "flex"}, {"service_tier": "priority"}, {"processing": "batch"})


class Listed(NamedTuple):
    """A price in OpenAI's list. `since` "": as long as the model exists."""

    model: str
    tier: str
    since: str
    prices: Any


def listed(models: list[Any]) -> Iterator[Listed]:
    """All prices of text models, oldest first."""
    for model in models:
        name = model.id.replace("gpt-3.5", "gpt-35")
        if not _OPENAI.match(name) or _NOT_BY_TEXT.search(name):
            continue
        yield from _of_model(name, model, _TIERS)


def _of_model(name: str, model: Any, tiers: tuple[dict[str, str], ...]) -> Iterator[Listed]:
    for entry in model.prices if isinstance(model.prices, list) else [None]:
        yield Listed(name, "standard", _since(entry), model.prices if entry is None else entry.prices)
    for variant in model.price_variants or ():
        if variant.when in tiers:
            [tier] = variant.when.values()
            yield Listed(name, tier, _since(variant), variant.prices)


def _since(entry: Any) -> str:
    constraint = getattr(entry, "constraint", None)
    return str(constraint.start_date) if constraint is not None else ""


def openai_lines(models: list[Any], azure: list[dict[str, Any]], day: str) -> Iterator[dict[str, Any]]:
    """The lines that Azure's list of this day lacks. A change that the list could not have yet replaces the price of
    each kind of deployment from the day after the list, in the proportion that the list has."""
    after = str(date.fromisoformat(day) + timedelta(days=1))
    prices = list(listed(models))
    changed = {price.model for price in prices if price.tier == "standard" and price.since}
    for price in prices:
        for context in ("short", "long"):
            amounts = _amounts(price.prices, context)
            if "input" not in amounts:
                continue
            head = {"model": price.model} | ({"tier": price.tier} if price.tier != "standard" else {})
            head |= {"context": context} if context == "long" else {}
            listed_lines = [line for line in azure if _same(line, price.model, price.tier, context)]
            usual = {line["deployment"]: line for line in listed_lines if "regions" not in line}
            if not listed_lines:
                yield head | ({"from": price.since} if price.since else {}) | amounts
            elif price.model in changed and price.since > min(line["from"] for line in listed_lines):
                if (world := usual.get("global")) is None or world["input"] == amounts["input"]:
                    continue
                for line in listed_lines:
                    factor = line["input"] / world["input"]
                    scaled = {name: round(amount * factor, 6) for name, amount in amounts.items()}
                    yield {**line, "from": max(price.since, after), **scaled}


_OWN_TIERS = (*_TIERS, {"service_tier": "fast"})
_OWN_FIELDS = _OPENAI_FIELDS | {
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
    "input_mchars": "character",
}
_OWN_NAMES = {"whisper": "whisper-1", "tts": "tts-1", "tts-hd": "tts-1-hd"}  # Azure's name -> OpenAI's


def own_lines(provider: Any, azure: list[dict[str, Any]], others: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The prices of OpenAI's own API, for its models in the other lines. A price that a line of `others` has for any
    deployment is not repeated."""
    anywhere = {_variant(line) for line in others if "deployment" not in line and "model" in line}
    for name in sorted({line["model"] for line in (*azure, *others) if line.get("model")}):
        model = provider.find_model(_OWN_NAMES.get(name, name.replace("gpt-35", "gpt-3.5")))
        if model is None or "oss" in name:  # OpenAI does not serve its open models
            continue
        for price in _of_model(name, model, _OWN_TIERS):
            for context in ("short", "long"):
                head = {"model": name, "deployment": "openai"}
                head |= {"tier": price.tier} if price.tier != "standard" else {}
                head |= {"context": context} if context == "long" else {}
                amounts = _own_amounts(price.prices, context)
                if "audio" in name and "audio_input" not in amounts:
                    continue  # sound would be charged as text, which is far cheaper
                if amounts and _variant(head) not in anywhere:
                    yield head | ({"from": price.since} if price.since else {}) | amounts


def _own_amounts(prices: Any, context: str) -> dict[str, float]:
    amounts = _amounts(prices, context, _OWN_FIELDS)
    hour = getattr(prices, "audio_hours", None)
    return amounts if hour is None or context == "long" else amounts | {"second": round(float(hour) / 3600, 10)}


def _variant(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["model"], line.get("tier", "standard"), line.get("context", "short")


_ANTHROPIC_FIELDS = _OPENAI_FIELDS | {"cache_write_1h_mtok": "cache_write_1h"}
_CLAUDE_TIERS = {("processing", "batch"): "batch", ("speed", "fast"): "fast"}


def anthropic_lines(models: list[Any]) -> Iterator[dict[str, Any]]:
    """Anthropic's list prices, by which Azure bills Claude as well. A price for long context holds above the number of
    tokens that `types.long_context` has for the model, until a later price of the model has none."""
    for model in models:
        tiered = False
        for tier, since, prices in _of_claude(model):
            short, long = (_amounts(prices, context, _ANTHROPIC_FIELDS) for context in ("short", "long"))
            tiered = tier == "standard" and (tiered or bool(long))
            searches = getattr(prices, "web_searches_kcount", None)
            tools = {} if searches is None else {"web_search": float(searches) / 1000}
            head = {"model": model.id.removesuffix("-latest")} | ({"tier": tier} if tier != "standard" else {})
            start = {"from": since} if since else {}
            yield head | start | short | tools
            if long or tiered:
                yield head | {"context": "long"} | start | (long or short) | tools


def _of_claude(model: Any) -> Iterator[tuple[str, str, Any]]:
    """The prices of a model, each with its tier and its first day; "": as long as the tier exists."""
    for entry in model.prices if isinstance(model.prices, list) else [None]:
        yield "standard", _since(entry), model.prices if entry is None else entry.prices
    for variant in model.price_variants or ():
        if len(variant.when) == 1 and (tier := _CLAUDE_TIERS.get(next(iter(variant.when.items())))) is not None:
            yield tier, "", variant.prices


def _same(line: dict[str, Any], model: str, tier: str, context: str) -> bool:
    return _variant(line) == (model, tier, context)


def _amounts(prices: Any, context: str, fields: dict[str, str] = _OPENAI_FIELDS) -> dict[str, float]:
    """USD per million tokens; nothing for long context if it has no price of its own."""
    amounts, tiered = {}, False
    for theirs, ours in fields.items():
        if (amount := getattr(prices, theirs, None)) is None:
            continue
        tiers = getattr(amount, "tiers", ())
        tiered = tiered or bool(tiers)
        amounts[ours] = float(tiers[0].price if tiers and context == "long" else getattr(amount, "base", amount))
    return amounts if tiered or context == "short" else {}
