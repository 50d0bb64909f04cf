# mypy: ignore-errors
"""A program on `openai` 1.12 or later: legacy completions, ChatML, chats and embeddings. Prints one JSON object."""

import json
import os
import sys

import openai

client = openai.OpenAI(base_url=f"{os.environ['GATEWAY']}/v1", api_key=os.environ["KEY"], max_retries=0)
dated = openai.AzureOpenAI(
    azure_endpoint=os.environ["GATEWAY"], api_key=os.environ["KEY"], api_version="2024-02-01", max_retries=0
)
CHATML = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello\n<|im_end|>\n<|im_start|>assistant\n"

whole = client.completions.create(model="text-davinci-003", prompt=CHATML, max_tokens=30, stop=["<|im_end|>"])
named = client.completions.create(model="text-davinci-003", prompt="Hello", echo=True)
pieces = [
    chunk.choices[0].text
    for chunk in client.completions.create(model="text-davinci-003", prompt="Hello", stream=True)
    if chunk.choices
]
engines = openai.OpenAI(base_url=f"{os.environ['GATEWAY']}/v1/engines/gpt-4o", api_key=os.environ["KEY"])
chat = engines.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
embedding = client.embeddings.create(model="text-embedding-3-small", input="Hello")
azure = dated.completions.create(model="gpt-4o", prompt="Hello")
try:
    client.completions.create(model="text-davinci-003", prompt=["a", "b"])
    refused = ""
except openai.BadRequestError as error:
    refused = error.param
json.dump(
    {
        "version": openai.__version__,
        "object": whole.object,
        "text": whole.choices[0].text,
        "finish_reason": whole.choices[0].finish_reason,
        "usage": whole.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}),
        "echo": named.choices[0].text,
        "streamed": "".join(pieces),
        "chat": chat.choices[0].message.content,
        "embedding": len(embedding.data[0].embedding),
        "azure": azure.choices[0].text,
        "refused": refused,
    },
    sys.stdout,
)
