"""The same data engineer by an assistant, as notebooks of 2024 have it. Azure retired assistants in 2026: see
docs/assistants-to-responses.md.

With OPENAI_API_VERSION=2024-02-15-preview it speaks the first version of assistants, whose files stand in `file_ids`;
without, the last one, with `tool_resources`.
"""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from openai import AzureOpenAI, OpenAI
from openai.types.beta.threads import Run
from wind_power import FILE, FUNCTIONS, QUESTIONS, Database

MODEL = "gpt-4o"
INSTRUCTIONS = "You are a data engineer. Work with the file, and with the functions for the table."
VERSION = os.environ.get("OPENAI_API_VERSION", "")
warnings.simplefilter("ignore", DeprecationWarning)


def files_of(file_id: str) -> dict[str, Any]:
    """The file of an assistant, in the words of the API's version. The client has forgotten those of the first one."""
    if VERSION and VERSION < "2024-05":
        return {"extra_body": {"file_ids": [file_id]}}
    return {"tool_resources": {"code_interpreter": {"file_ids": [file_id]}}}


def answer(client: OpenAI, database: Database, run: Run, folder: Path) -> None:
    """Call the functions that the run requires until it is done; then print its message and save its files."""
    threads = client.beta.threads
    while run.status == "requires_action" and run.required_action is not None:
        outputs: list[Any] = []
        for call in run.required_action.submit_tool_outputs.tool_calls:
            print(f"  {call.function.name}({call.function.arguments})")
            output = database.call(call.function.name, call.function.arguments)
            outputs.append({"tool_call_id": call.id, "output": output})
        run = threads.runs.submit_tool_outputs_and_poll(
            run_id=run.id, thread_id=run.thread_id, tool_outputs=outputs, poll_interval_ms=100
        )
    if run.status != "completed":
        print("  the run is", run.status, run.last_error or run.incomplete_details)
        return
    for step in threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc"):
        for used in step.step_details.tool_calls if step.step_details.type == "tool_calls" else ():
            if used.type == "code_interpreter":
                print("  code:", used.code_interpreter.input.strip().replace("\n", "\n        "))
    for message in threads.messages.list(run.thread_id, run_id=run.id, order="asc"):
        for part in message.content:
            if part.type == "text":
                print(part.text.value)
                for made in part.text.annotations:
                    if made.type == "file_path":
                        save(client, made.file_path.file_id, folder / made.text.rpartition("/")[2])
            elif part.type == "image_file":
                save(client, part.image_file.file_id, folder / f"{part.image_file.file_id}.png")


def save(client: OpenAI, file_id: str, path: Path) -> None:
    path.write_bytes(client.files.content(file_id).read())
    print(f"  saved {path}, {path.stat().st_size} bytes")


def connect() -> OpenAI:
    if not VERSION:
        return OpenAI()
    endpoint = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
    return AzureOpenAI(azure_endpoint=endpoint, api_key=os.environ["OPENAI_API_KEY"], api_version=VERSION)


with connect() as client:
    folder = Path(tempfile.mkdtemp(prefix="wind-power-"))
    database = Database()
    with FILE.open("rb") as data:
        file = client.files.create(file=data, purpose="assistants")
    functions: list[Any] = [{"type": "function", "function": function} for function in FUNCTIONS]
    assistant = client.beta.assistants.create(
        model=MODEL,
        instructions=INSTRUCTIONS,
        tools=[{"type": "code_interpreter"}, *functions],
        **files_of(file.id),
    )
    thread = client.beta.threads.create()
    for question in QUESTIONS:
        print(f"> {question}")
        client.beta.threads.messages.create(thread.id, role="user", content=question)
        run = client.beta.threads.runs.create_and_poll(
            thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=100
        )
        answer(client, database, run, folder)
    client.beta.threads.delete(thread.id)
    client.beta.assistants.delete(assistant.id)
    client.files.delete(file.id)
    database.close()
