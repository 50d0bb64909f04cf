"""A chain of responses: the gateway routes each one to the region that stores the previous one."""

import json

from openai import OpenAI
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall

TIDE: FunctionToolParam = {
    "type": "function",
    "name": "tide",
    "description": "When the tide is high.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": False,
}

with OpenAI() as client:
    first = client.responses.create(model="gpt-5.4-mini", input="My name is Ada.")
    stream = client.responses.create(
        model="gpt-5.4-mini", input="What is my name?", previous_response_id=first.id, stream=True
    )
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    print()

    call = client.responses.create(
        model="gpt-5.4-mini", input="When can we sail?", tools=[TIDE], tool_choice="required"
    )
    for item in call.output:
        if isinstance(item, ResponseFunctionToolCall):
            print(item.name, json.loads(item.arguments))
            answer = client.responses.create(
                model="gpt-5.4-mini",
                previous_response_id=call.id,
                input=[{"type": "function_call_output", "call_id": item.call_id, "output": "at noon"}],
                tools=[TIDE],
            )
            print(answer.output_text)
