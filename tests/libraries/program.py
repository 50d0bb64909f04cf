"""Calls through LangChain, LiteLLM and OpenAI's agents; `test_libraries.py` runs it. Prints a line of JSON per call."""
# mypy: ignore-errors

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches the prices of models

import litellm
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI

url, key = sys.argv[1:]
openai: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": key}


def report(name: str, tokens: int) -> None:
    print(json.dumps({"name": name, "output_tokens": tokens}))


def langchain() -> None:
    chat = ChatOpenAI(model="mini", stream_usage=True, **openai)
    report("langchain invoke", chat.invoke("Hello").usage_metadata["output_tokens"])
    whole = None
    for chunk in chat.stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    report("langchain stream", whole.usage_metadata["output_tokens"])
    responses = ChatOpenAI(model="mini", use_responses_api=True, **openai)
    report("langchain responses", responses.invoke("Hello").usage_metadata["output_tokens"])
    azure = AzureChatOpenAI(azure_endpoint=url, azure_deployment="mini", api_version="2024-10-21", api_key=key)
    report("langchain azure", azure.invoke("Hello").usage_metadata["output_tokens"])
    # Its tokens are a download: `tests/clients/requests.py` has embeddings of tokens.
    OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **openai).embed_documents(["one", "two"])
    report("langchain embeddings", 0)


def litellm_calls() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    made = litellm.completion(model="openai/mini", messages=messages, api_base=f"{url}/v1", api_key=key)
    report("litellm", made.usage.completion_tokens)
    made = litellm.completion(
        model="azure/mini", messages=messages, api_base=url, api_key=key, api_version="2024-10-21"
    )
    report("litellm azure", made.usage.completion_tokens)


async def agents() -> None:
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(**openai)
    for name, kind in (("chat", OpenAIChatCompletionsModel), ("responses", OpenAIResponsesModel)):
        agent = Agent(name="a", instructions="x", model=kind(model="mini", openai_client=client))
        done = await Runner.run(agent, "Hello")
        report(f"agents {name}", done.context_wrapper.usage.output_tokens)


langchain()
litellm_calls()
asyncio.run(agents())
