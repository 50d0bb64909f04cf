"""An assistant that calls a function. Azure retired assistants in 2026; use responses instead."""

import warnings

from openai import OpenAI

warnings.simplefilter("ignore", DeprecationWarning)

with OpenAI() as client:
    assistant = client.beta.assistants.create(
        model="gpt-5.4-mini",
        instructions="Ask for the tide before you answer.",
        tools=[{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}],
    )
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "When can we sail?"}])
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=200)
    if run.required_action:
        calls = run.required_action.submit_tool_outputs.tool_calls
        run = client.beta.threads.runs.submit_tool_outputs_and_poll(
            run_id=run.id,
            thread_id=thread.id,
            tool_outputs=[{"tool_call_id": call.id, "output": "high at noon"} for call in calls],
            poll_interval_ms=200,
        )
    print(run.status, run.usage)
    for message in client.beta.threads.messages.list(thread.id, order="asc"):
        for part in message.content:
            if part.type == "text":
                print(f"{message.role}: {part.text.value}")
    client.beta.threads.delete(thread.id)
    client.beta.assistants.delete(assistant.id)
