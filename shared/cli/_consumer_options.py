"""The options of commands that write consumers, and the body that they make for the management API."""

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from shared.cli._terminal import fail
from shared.config.limits import Limits, Period

_PANEL = "Limits"
_Amount = Annotated[
    int | None, typer.Option(min=0, help="0: no limit, whatever the configuration says.", rich_help_panel=_PANEL)
]
_Usd = Annotated[float | None, typer.Option(min=0, help="USD; 0: no limit.", rich_help_panel=_PANEL)]
_Period = Annotated[Period | None, typer.Option(help="Period of the quota or budget.", rich_help_panel=_PANEL)]
_Text = str | None
_LIMITS: dict[str, Any] = {
    **dict.fromkeys(("tokens_per_minute", "requests_per_minute", "token_quota"), _Amount),
    **{"token_quota_period": _Period, "request_quota": _Amount, "request_quota_period": _Period},
    **{"budget_usd": _Usd, "budget_period": _Period, "max_concurrent": _Amount},
    "time_zone": Annotated[
        _Text, typer.Option(help="Time zone of the periods, e.g. Europe/Berlin.", rich_help_panel=_PANEL)
    ],
    "soft": Annotated[
        bool | None,
        typer.Option("--soft/--hard", help="Report calls over a limit, or reject them.", rich_help_panel=_PANEL),
    ],
    "estimate": Annotated[
        Literal["max", "learned"] | None,
        typer.Option(help="Output tokens reserved for a call: its maximum, or the average.", rich_help_panel=_PANEL),
    ],
}
# The word that lifts a restriction, by field.
_ALL = {"models": "all", "regions": "all", "data_zones": "all", "addresses": "any", "products": "none"}
_OPTIONS: dict[str, Any] = {
    "team": Annotated[_Text, typer.Option(help="Team whose limits it shares; '': none.")],
    "products": Annotated[
        _Text, typer.Option(help="Products it subscribes to, separated by commas, the default first; none: no product.")
    ],
    "models": Annotated[_Text, typer.Option(help="Models it may use, separated by commas; all: every model.")],
    "addresses": Annotated[
        _Text,
        typer.Option(help="Networks it may call from, separated by commas, e.g. 10.0.0.0/8,2001:db8::/32; any: all."),
    ],
    "regions": Annotated[
        _Text, typer.Option(help="Regions its calls may go to, separated by commas; all: any region.")
    ],
    "data_zones": Annotated[
        _Text, typer.Option(help="Data zones its calls may go to, separated by commas; all: any zone.")
    ],
    "pin": Annotated[
        bool | None,
        typer.Option("--pin/--no-pin", help="Allow it to choose the backend by the header x-gateway-backend."),
    ],
    "explain": Annotated[
        bool | None, typer.Option("--explain/--no-explain", help="Allow it to ask why a call went to a backend.")
    ],
    "whole_account": Annotated[
        bool | None,
        typer.Option(
            "--whole-account/--no-whole-account",
            help="Allow it batches and evals that may read the objects of all keys.",
        ),
    ],
    "expires": Annotated[_Text, typer.Option(help="End of its validity, UTC, e.g. 2027-03-31; never: no end.")],
    **_LIMITS,
}
FIELDS = tuple(name for name in _OPTIONS if name not in _LIMITS)


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of a consumer. It receives those that were given as `given`."""
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "given"]
    more = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def called(**parameters: Any) -> None:
        options = {name: parameters.pop(name) for name in _OPTIONS}
        command(**parameters, given={name: value for name, value in options.items() if value is not None})

    annotations = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    called.__annotations__ = annotations
    called.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return called


def limits_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The limits among options."""
    return {name: given[name] for name in Limits.__struct_fields__ if name in given}


def fields_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The other fields among options, as the management API has them. Exits with 2 for one that it cannot have."""
    return {name: _field(name, given[name]) for name in FIELDS if name in given}


def _field(name: str, value: Any) -> Any:
    if name in _ALL:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if parts == [_ALL[name]]:
            return None
        if not parts:
            fail(f"--{name.replace('_', '-')}: expected {_ALL[name]}, or values separated by commas; got none")
        return parts
    return moment(value) if name == "expires" else value


def moment(text: str) -> str | None:
    """An end of validity as the management API has it; None for `never`."""
    if text == "never":
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--expires: expected a day such as 2027-03-31, a time such as 2027-03-31T18:00:00Z, or never; got {text}")
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
