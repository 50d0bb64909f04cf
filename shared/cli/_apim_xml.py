"""Reads a policy of API Management: XML whose attributes and texts may hold C# expressions. Pure.

The portal keeps expressions as they are typed, `@(context.Request.Headers["x"] == "y" && …)` in an attribute, which is
no XML. They are escaped first. No entity is expanded and no document type is read, since a file may come from anywhere.
"""

import re
from xml.parsers import expat

import msgspec

MOST_BYTES = 1_048_576  # API Management takes 512 kB
_DEEPEST = 100  # elements
_OPENING = re.compile(r"""(?<=["'>\s])@(?=[({])""")
_TOKEN = re.compile(r"""&quot;|["'(){}\\]""")
_CLOSING = {"(": ")", "{": "}"}
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9A-Fa-f]{1,6});)")
_APART = re.compile(r"<!--.*?-->|<!\[CDATA\[.*?\]\]>", re.DOTALL)  # in which nothing is escaped


class PolicyUnreadable(Exception):
    """`line`: of the file, from 1 on."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


class Element(msgspec.Struct):
    """An element with the line on which it begins. `text`: all that stands directly in it."""

    name: str
    line: int
    attributes: dict[str, str]
    children: list["Element"] = []
    text: str = ""

    def get(self, attribute: str) -> str:
        return self.attributes.get(attribute, "").strip()

    def texts(self, child: str) -> list[str]:
        return [one.text.strip() for one in self.children if one.name == child]

    def child(self, name: str) -> "Element | None":
        return next((one for one in self.children if one.name == name), None)


def read(text: str) -> Element:
    """The root element. Raises `PolicyUnreadable`."""
    if len(text.encode()) > MOST_BYTES:
        raise PolicyUnreadable(1, f"expected at most {MOST_BYTES} bytes")
    root = Element("", 0, {})
    path = [root]
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(path) > _DEEPEST:
            raise PolicyUnreadable(parser.CurrentLineNumber, f"expected at most {_DEEPEST} nested elements")
        element = Element(name, parser.CurrentLineNumber, attributes, [])
        path[-1].children.append(element)
        path.append(element)

    def end(name: str) -> None:
        path.pop()

    def characters(data: str) -> None:
        path[-1].text += data

    def doctype(*_: object) -> None:
        raise PolicyUnreadable(parser.CurrentLineNumber, "expected no document type: a policy has none")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters, doctype
    try:
        parser.Parse(_escaped(text), True)
    except expat.ExpatError as error:
        raise PolicyUnreadable(error.lineno, f"is not XML: {expat.ErrorString(error.code)}") from None
    return root.children[0]


def _escaped(text: str) -> str:
    """The text with its expressions in XML's own spelling, on the same lines."""
    pieces: list[str] = []
    at = 0
    while (apart := _APART.search(text, at)) or at < len(text):
        until = apart.start() if apart else len(text)
        at = _escape_part(text, at, until, pieces)
        if apart:
            if at < apart.start() or at >= apart.end():  # a mark inside of an expression
                continue
            pieces.append(apart[0])
            at = apart.end()
    return "".join(pieces)


def _escape_part(text: str, at: int, until: int, pieces: list[str]) -> int:
    """Append the escaped text up to `until`, or up to the end of an expression that goes past it. Return that place."""
    while (opening := _OPENING.search(text, at, until)) is not None:
        begin = opening.end()
        end = _end_of(text, begin)
        inner = _ENTITY.sub("&amp;", text[begin:end]).replace("<", "&lt;")
        pieces += (text[at:begin], inner.replace('"', "&quot;").replace("'", "&apos;"))
        at = end
    if at < until:
        pieces.append(text[at:until])
        at = until
    return at


def _end_of(text: str, begin: int) -> int:
    """The place behind the expression whose first bracket is at `begin`. Brackets in its strings do not count."""
    expected: list[str] = []
    quote = ""
    skipped = -1
    for token in _TOKEN.finditer(text, begin):
        mark = '"' if token[0] == "&quot;" else token[0]
        if token.start() == skipped:
            continue
        if mark == "\\":
            skipped = token.end() if quote else -1
        elif quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        elif mark in _CLOSING:
            expected.append(_CLOSING[mark])
        else:
            if not expected or mark != expected.pop():
                break
            if not expected:
                return token.end()
    line = text.count("\n", 0, begin) + 1
    raise PolicyUnreadable(line, "expected the end of the expression that begins here")
