"""The hierarchy of errors."""

import ast
from collections.abc import Iterator
from pathlib import Path

from shared import errors
from shared.errors import GatewayError


def hierarchy(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from hierarchy(below)


def test_errors_stand_in_the_order_of_their_statuses() -> None:
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]
    assert set(own) == set(hierarchy(GatewayError))
    statuses = [kind.status for kind in own[1:]]
    assert statuses == sorted(statuses)


def test_clients_hear_when_to_repeat_what_may_succeed_later() -> None:
    """Some have no back-off of their own, and read seconds alone."""
    later = [kind for kind in hierarchy(GatewayError) if kind.status in (502, 503, 504)]
    assert len(later) > 4
    for kind in later:
        headers = kind("later").headers()
        assert int(headers["retry-after"]) >= 1, kind
        assert 0 < int(headers["retry-after-ms"]) <= int(headers["retry-after"]) * 1000
    assert GatewayError("a defect").headers() == {}


def test_no_other_module_defines_an_error_response() -> None:
    names = {kind.__name__ for kind in hierarchy(GatewayError)}
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                assert not names & {base.id for base in node.bases if isinstance(base, ast.Name)}, (path, node.name)
