"""The code interpreter's part of a response."""

import msgspec

from simulator.api.hosted_code import call_item, cited, container_of, tables_in
from simulator.api.response_input import ResponseRequest, text_of
from simulator.collection import Object
from simulator.generation import GeneratedChoice
from simulator.interpreter.analysis import find
from simulator.interpreter.functions import FunctionCall, call_for
from simulator.store import Store
from simulator.tokens import in_pieces


class Coded(msgspec.Struct, frozen=True):
    """The answer, and the item of the code before it; or the call of a function instead."""

    text: str = ""
    annotations: list[Object] = []
    item: Object | None = None
    function: FunctionCall | None = None


def run_code(request: ResponseRequest, items: list[Object], before: list[Object], store: Store) -> Coded | None:
    """None if the input has no table, or asks for nothing that can be done with one."""
    container = container_of(request.tools or (), before, store)
    if container is None or not items:
        return None
    files = [kept for kept in container.files if kept.object["source"] == "user"]
    if not (tables := tables_in(files)):
        return None
    if items[-1]["type"] == "function_call_output":
        return Coded(f"The function answers: {text_of(items[-1])}")
    question = text_of(items[-1])
    functions = [tool for tool in request.tools or () if tool.get("type") == "function"]
    if (function := call_for(question, functions, tables)) is not None:
        return Coded(function=function)
    if (finding := find(question, tables)) is None:
        return None
    text, annotations = cited(finding, container)
    return Coded(text, annotations, call_item(finding, container, request.include or ()))


def within(coded: Coded, written: GeneratedChoice, limit: int | None) -> tuple[Coded, GeneratedChoice]:
    """The tokens of the answer up to the limit. Annotations of an answer that is cut would point nowhere."""
    tokens = in_pieces(coded.text) if coded.text else []
    left = len(tokens) if limit is None else max(0, limit - written.reasoning_tokens)
    cut = left < len(tokens)
    written = msgspec.structs.replace(written, tokens=tokens[:left], finish_reason="length" if cut else "stop")
    return (msgspec.structs.replace(coded, annotations=[]) if cut else coded), written
