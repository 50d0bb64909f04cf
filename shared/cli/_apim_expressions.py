"""Recognises the usual expressions of API Management's policies: what they count by, and on which answers. Pure."""

import re
from typing import Literal, NamedTuple

Counted = Literal["subscription", "address", "identity", "product", "user", "header", "all", "unknown"]

_ADDRESS_HEADERS = ("x-forwarded-for", "x-azure-clientip", "x-client-ip", "true-client-ip", "x-real-ip")
_HEADER = (
    r'context\.Request\.Headers\.(?:GetValueOrDefault\("(?P<header>[\w-]+)"(?:,"[^"]*")?\)|\["(?P<plain>[\w-]+)"\])'
)
_BY: tuple[tuple[Counted, str], ...] = (
    ("subscription", r"context\.Subscription\.(?:Id|Key|Name|PrimaryKey)"),
    ("address", r"context\.Request\.IpAddress"),
    ("identity", r".*\.AsJwt\(\)\.(?:Subject|Id|Claims\b.*)"),
    ("product", r"context\.Product\.(?:Id|Name)"),
    ("user", r"context\.User\.(?:Id|Email)"),
    ("header", _HEADER + r"(?:\.(?:First|FirstOrDefault|Last|ToString)\(\))?"),
)
_SUCCESS = re.compile(r"S>=200&&S(?:<400|<=399)")
_ONLY_2XX = re.compile(r"S==200|S>=200&&S(?:<300|<=299)|S/100==2")
_RETRIED = re.compile(
    r"S==(?:408|429|5\d\d)|S>=5\d\d|S>=500&&S(?:<600|<=599)|context\.Response==null|context\.LastError!=null"
)


class Counter(NamedTuple):
    """The key of a limit. `header`: the name of the one, for `header` and for an `address` that stands in one."""

    by: Counted
    header: str = ""


def is_expression(text: str) -> bool:
    """True for what API Management finds out at run time: an expression, or a named value."""
    return text.lstrip().startswith("@") or "{{" in text


def counter(text: str) -> Counter:
    """The callers that a counter key counts separately. A text without an expression is one counter for all."""
    if not is_expression(text):
        return Counter("all")
    plain = _plain(text)
    for by, pattern in _BY:
        if (match := re.fullmatch(pattern, plain, re.IGNORECASE)) is not None:
            if by != "header":
                return Counter(by)
            name = match["header"] or match["plain"]
            return Counter("address" if name.lower() in _ADDRESS_HEADERS else "header", name)
    return Counter("unknown")


def counted(condition: str) -> Literal["success", "2xx", "unknown"]:
    """The calls that a condition counts."""
    plain = _statuses(condition)
    if _SUCCESS.fullmatch(plain):
        return "success"
    return "2xx" if _ONLY_2XX.fullmatch(plain) else "unknown"


def retries_failures(condition: str) -> bool:
    """True if a condition retries what the gateway calls a failure of a backend, and nothing else."""
    terms = [term.strip("()") for term in _statuses(condition).split("||")]
    return bool(terms) and all(_RETRIED.fullmatch(term) for term in terms)


def _statuses(condition: str) -> str:
    """A condition in which S is the status."""
    plain = re.sub(r"context\.Response!=null&&", "", _plain(condition))
    return re.sub(r"\(?\(?int\)?\)?context\.Response\.StatusCode|context\.Response\.StatusCode", "S", plain).strip("()")


def _plain(expression: str) -> str:
    """An expression without its marks, spaces, null checks and the value for what is missing."""
    inner = expression.strip()
    if inner.startswith("@(") and inner.endswith(")"):
        inner = inner[2:-1]
    inner = re.sub(r"\s+", "", inner).replace("?.", ".")
    return re.sub(r'\?\?"[^"]*"$', "", inner)
