"""A data engineer by responses: a CSV in a container of the code interpreter, questions, a chart, a table in SQLite."""

import tempfile
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types.responses import Response
from wind_power import FILE, FUNCTIONS, QUESTIONS, Database

MODEL = "gpt-5.4-mini"
INSTRUCTIONS = "You are a data engineer. Work with the file in the container, and with the functions for the table."


def save_files(client: OpenAI, response: Response, folder: Path) -> None:
    """Download what the code has made: the text cites each file."""
    for item in response.output:
        for part in item.content if item.type == "message" else ():
            for cited in part.annotations if part.type == "output_text" else ():
                if cited.type == "container_file_citation":
                    content = client.containers.files.content.retrieve(cited.file_id, container_id=cited.container_id)
                    path = folder / cited.filename
                    path.write_bytes(content.read())
                    print(f"  saved {path}, {path.stat().st_size} bytes")


def ask(client: OpenAI, database: Database, tools: list[Any], question: str, previous: str | None) -> Response:
    """The answer, once no function has to be called any more."""
    given: list[Any] = [{"role": "user", "content": question}]
    while True:
        response = client.responses.create(
            model=MODEL,
            instructions=INSTRUCTIONS,
            input=given,
            tools=tools,
            previous_response_id=previous,
            include=["code_interpreter_call.outputs"],
        )
        given, previous = [], response.id
        for item in response.output:
            if item.type == "function_call":
                print(f"  {item.name}({item.arguments})")
                output = database.call(item.name, item.arguments)
                given.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
            elif item.type == "code_interpreter_call":
                print("  code:", (item.code or "").strip().replace("\n", "\n        "))
        if not given:
            return response


with OpenAI() as client:
    folder = Path(tempfile.mkdtemp(prefix="wind-power-"))
    database = Database()
    with FILE.open("rb") as data:
        file = client.files.create(file=data, purpose="user_data")
    container = client.containers.create(name="wind power", file_ids=[file.id])
    functions = [{"type": "function", "strict": True, **function} for function in FUNCTIONS]
    tools = [{"type": "code_interpreter", "container": container.id}, *functions]
    previous = None
    for question in QUESTIONS:
        print(f"> {question}")
        response = ask(client, database, tools, question, previous)
        print(response.output_text)
        save_files(client, response, folder)
        previous = response.id
    client.containers.delete(container.id)
    client.files.delete(file.id)
    database.close()
