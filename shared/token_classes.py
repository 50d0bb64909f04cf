"""Classes of tokens that backends report: each is one line of `TokenCounts`, from which every table of them derives."""

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec


class TokenClass(msgspec.Struct, frozen=True):
    """The storage, the price and the presentation of one class of tokens.

    Backends report a part among the details of its total, by the field's name without the total's: `cached_tokens`.

    `row`: the property in ledger rows. `part_of`: the total that includes it; "": it is a total. `span`: the attribute
    in spans; "": `tollgate.usage.` and the field's name. `reported`: it can have a price, and has a column in reports
    and a metric. `default_price`: its price as a multiple of its total's, where it has no price.
    """

    row: str
    part_of: Literal["input", "output", ""] = ""
    span: str = ""
    reported: bool = True
    default_price: float = 1.0


_CACHE_WRITE = "gen_ai.usage.cache_creation.input_tokens"


class TokenCounts(msgspec.Struct, frozen=True):
    """Tokens by class. All but the two totals are parts of one of these: never add them to it. Tokens written to a
    prompt cache for an hour are a class beside those written for its usual time."""

    input_tokens: Annotated[int, TokenClass("e_input", span="gen_ai.usage.input_tokens")] = 0
    output_tokens: Annotated[int, TokenClass("e_output", span="gen_ai.usage.output_tokens")] = 0
    cached_input_tokens: Annotated[int, TokenClass("e_cached", "input", "gen_ai.usage.cache_read.input_tokens")] = 0
    cache_write_tokens: Annotated[int, TokenClass("e_cache_write", "input", _CACHE_WRITE, default_price=1.25)] = 0
    cache_write_1h_tokens: Annotated[int, TokenClass("e_cache_write_1h", "input", default_price=2.0)] = 0
    audio_input_tokens: Annotated[int, TokenClass("e_audio_in", "input")] = 0
    image_input_tokens: Annotated[int, TokenClass("e_image_in", "input")] = 0
    reasoning_tokens: Annotated[int, TokenClass("e_reasoning", "output", "gen_ai.usage.reasoning.output_tokens")] = 0
    audio_output_tokens: Annotated[int, TokenClass("e_audio_out", "output")] = 0
    image_output_tokens: Annotated[int, TokenClass("e_image_out", "output")] = 0
    accepted_prediction_tokens: Annotated[int, TokenClass("e_accepted", "output", reported=False)] = 0
    rejected_prediction_tokens: Annotated[int, TokenClass("e_rejected", "output", reported=False)] = 0


def price_name(field: str) -> str:
    """The price of a class, in `prices` of the configuration and in the metric's label.

    >>> price_name("cached_input_tokens")
    'cached_input'
    """
    return field.removesuffix("_tokens")


def reported_name(field: str) -> str:
    """The name of a part among the details that backends report.

    >>> reported_name("audio_input_tokens")
    'audio_tokens'
    """
    return field.replace("_input_", "_").replace("_output_", "_")


class Unit(NamedTuple):
    """A unit that is charged by the piece. `price`: its name among prices; `row`: the property in ledger rows;
    `meter`: its name in FOCUS; `tool`: the type of item in answers that stands for one call of a tool; such a call is
    charged beside the tokens, at a price that no model need have."""

    price: str
    row: str
    meter: str
    tool: str = ""


UNITS = {  # by the field of `Usage` and `Counts`
    "images": Unit("image", "e_images", "Images"),
    "seconds": Unit("second", "e_seconds", "Seconds of Sound"),
    "characters": Unit("character", "e_chars", "Characters"),
    "web_searches": Unit("web_search", "e_web_search", "Web Searches", "web_search_call"),
    "file_searches": Unit("file_search", "e_file_search", "File Searches", "file_search_call"),
    "code_sessions": Unit("code_session", "e_code_session", "Code Sessions", "code_interpreter_call"),
}
TOOLS = {unit.tool: field for field, unit in UNITS.items() if unit.tool}
TOOL_PRICES = tuple(unit.price for unit in UNITS.values() if unit.tool)

TOKEN_CLASSES: dict[str, TokenClass] = {
    field: annotation.__metadata__[0] for field, annotation in TokenCounts.__annotations__.items()
}
# Fields of the reported classes in the order of reports: input and its parts, then output and its parts.
REPORTED = tuple(
    field
    for total in ("input", "output")
    for field, tokens in TOKEN_CLASSES.items()
    if tokens.reported and total in (tokens.part_of, price_name(field))
)
TOKEN_PRICES = tuple(map(price_name, REPORTED))

Dollars = Annotated[float, msgspec.Meta(ge=0, le=1e6)]

AMOUNTS = (*TOKEN_PRICES, *(unit.price for unit in UNITS.values()), "unit_hour")

if TYPE_CHECKING:

    class Amounts(msgspec.Struct, frozen=True, kw_only=True):
        """USD per million tokens of each reported class or characters, per other unit, and per hour of a provisioned
        throughput unit; here only those that code names."""

        input: Dollars | None = None
        output: Dollars | None = None
        web_search: Dollars | None = None
        code_session: Dollars | None = None

else:
    Amounts = msgspec.defstruct(
        "Amounts", [(name, Dollars | None, None) for name in AMOUNTS], frozen=True, kw_only=True
    )
