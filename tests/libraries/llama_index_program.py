"""Calls through LlamaIndex; `test_libraries.py` runs it. Prints a line of JSON per call."""
# mypy: ignore-errors

import asyncio
import json
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.azure_openai import AzureOpenAI
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

url, key = sys.argv[1:]
openai = {"api_base": f"{url}/v1", "api_key": key}


def report(name: str, raw: object) -> None:
    """`raw`: the answer of OpenAI's client, or its last chunk, which an agent has as a dictionary."""
    usage = raw["usage"] if isinstance(raw, dict) else raw.usage.model_dump()
    print(json.dumps({"name": name, "output_tokens": usage.get("completion_tokens") or usage["output_tokens"]}))


def last(stream: object) -> object:
    *_, end = stream
    return end.raw


known = OpenAI(model="gpt-4o", **openai)  # it insists on names of OpenAI's
report("complete", known.complete("Hello").raw)
report("stream", last(known.stream_complete("Hello", stream_options={"include_usage": True})))
like = OpenAILike(model="mini", is_chat_model=True, is_function_calling_model=True, **openai)  # any name
report("like", like.complete("Hello").raw)
azure = AzureOpenAI(engine="mini", model="gpt-4o-mini", azure_endpoint=url, api_version="2024-10-21", api_key=key)
report("azure", azure.complete("Hello").raw)
report("responses", OpenAIResponses(model="gpt-4o", **openai).complete("Hello").raw)
OpenAIEmbedding(model_name="embed", **openai).get_text_embedding_batch(["one", "two"])
print(json.dumps({"name": "embeddings", "output_tokens": 0}))


async def agent() -> None:
    done = await FunctionAgent(llm=like, tools=[], system_prompt="x", streaming=False).run("Hello")
    report("agent", done.raw)


asyncio.run(agent())
