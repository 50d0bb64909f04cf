"""The options of commands that write consumers, and the body that they make for the management API."""

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shared.cli._terminal import fail
from shared.config.limits import Estimated, Limits, QuotaCounts

Text = str | None


def option(kind: Any, text: str, *names: str, **more: Any) -> Any:
    """The annotation of an option that may be left out, with its help."""
    return Annotated[kind | None, typer.Option(*names, help=text, **more)]


_limit = functools.partial(option, rich_help_panel="Limits")
_Amount = _limit(int, "0: no limit, whatever the configuration says.", min=0)
_Period = _limit(str, "Its period: hour, day, week, month, or seconds such as 3600.")
LIMITS: dict[str, Any] = {
    **dict.fromkeys(("tokens_per_minute", "requests_per_minute", "token_quota"), _Amount),
    **{"token_quota_period": _Period, "request_quota": _Amount, "request_quota_period": _Period},
    "budget_usd": _limit(float, "USD; 0: no limit.", min=0),
    **{"budget_period": _Period, "max_concurrent": _Amount},
    "quota_counts": _limit(QuotaCounts, "Requests that the quota counts: all, or 2xx and 3xx only."),
    "time_zone": _limit(str, "Time zone of the periods, e.g. Europe/Berlin."),
    "soft": _limit(bool, "Report calls over a limit, or reject them.", "--soft/--hard"),
    "estimate": _limit(Estimated, "Tokens reserved for a call: the maximum, the average, or none."),
}
# The word that lifts a restriction, by field.
_ALL = {"models": "all", "regions": "all", "data_zones": "all", "addresses": "any", "products": "none"}
_OPTIONS: dict[str, Any] = {
    "team": option(str, "Team whose limits it shares; '': none."),
    "products": option(str, "Products it subscribes to, separated by commas, the default first; none: no product."),
    "models": option(str, "Models it may use, separated by commas; all: every model."),
    "addresses": option(
        str, "Networks it may call from, separated by commas, e.g. 10.0.0.0/8,2001:db8::/32; any: all."
    ),
    "regions": option(str, "Regions its calls may go to, separated by commas; all: any region."),
    "data_zones": option(str, "Data zones its calls may go to, separated by commas; all: any zone."),
    "pin": option(bool, "Allow it to choose the backend by the header x-gateway-backend.", "--pin/--no-pin"),
    "explain": option(bool, "Allow it to ask why a call went to a backend.", "--explain/--no-explain"),
    "whole_account": option(
        bool,
        "Let its batches and evals read the objects of all keys, and what a backend itself may read.",
        "--whole-account/--no-whole-account",
    ),
    "expires": option(str, "End of its validity, UTC, e.g. 2027-03-31; never: no end."),
    **LIMITS,
}
FIELDS = tuple(name for name in _OPTIONS if name not in LIMITS)


def with_options(options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options. It receives those that were given as `options`."""

    def gives(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
        more = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in options.items()
        ]

        @functools.wraps(command)
        def called(**parameters: Any) -> None:
            values = {name: parameters.pop(name) for name in options}
            command(**parameters, options={name: value for name, value in values.items() if value is not None})

        annotations = {parameter.name: parameter.annotation for parameter in (*own, *more)}
        called.__annotations__ = annotations
        called.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return called

    return gives


with_fields = with_options(_OPTIONS)  # one for every field of a consumer


def limits_in(options: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: options[name] for name in Limits.__struct_fields__ if name in options}
    seconds = (name for name, value in limits.items() if name.endswith("_period") and value.isdecimal())
    return limits | {name: int(limits[name]) for name in seconds}


def fields_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """The other fields among options, as the management API has them. Exits with 2 for one that it cannot have."""
    return {name: _field(name, options[name]) for name in FIELDS if name in options}


def _field(name: str, value: Any) -> Any:
    if name in _ALL:
        return listed(name, value, _ALL[name])
    return moment(value) if name == "expires" else value


def listed(name: str, value: str, none: str) -> list[str] | None:
    """The values of an option, separated by commas; None for the word `none`. Exits with 2 without any."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if parts == [none]:
        return None
    if not parts:
        fail(f"--{name.replace('_', '-')}: expected {none}, or values separated by commas; got none")
    return parts


def moment(text: str) -> str | None:
    """An end of validity as the management API has it; None for `never`."""
    if text == "never":
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--expires: expected a day such as 2027-03-31, a time such as 2027-03-31T18:00:00Z, or never; got {text}")
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
