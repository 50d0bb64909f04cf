# mypy: ignore-errors
"""A program of 2023 on `openai` 0.27 or 0.28: legacy completions by engine and by model, ChatML, chats and embeddings.
Prints one JSON object."""

import json
import os
import sys

import openai

openai.api_base = f"{os.environ['GATEWAY']}/v1"
openai.api_key = os.environ["KEY"]
CHATML = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello\n<|im_end|>\n<|im_start|>assistant\n"

whole = openai.Completion.create(engine="text-davinci-003", prompt=CHATML, max_tokens=30, stop=["<|im_end|>"])
named = openai.Completion.create(model="text-davinci-003", prompt="Hello", echo=True)
pieces = [
    chunk["choices"][0]["text"]
    for chunk in openai.Completion.create(engine="text-davinci-003", prompt="Hello", stream=True)
    if chunk["choices"]
]
chat = openai.ChatCompletion.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
embedding = openai.Embedding.create(engine="text-embedding-3-small", input="Hello", encoding_format="float")
azure = openai.Completion.create(
    deployment_id="gpt-4o",
    prompt="Hello",
    api_type="azure",
    api_base=os.environ["GATEWAY"],
    api_version="2023-05-15",
)
try:
    openai.Completion.create(engine="text-davinci-003", prompt=["a", "b"])
    refused = ""
except openai.error.InvalidRequestError as error:
    refused = error.param
json.dump(
    {
        "version": openai.version.VERSION,
        "object": whole["object"],
        "text": whole["choices"][0]["text"],
        "finish_reason": whole["choices"][0]["finish_reason"],
        "usage": dict(whole["usage"]),
        "echo": named["choices"][0]["text"],
        "streamed": "".join(pieces),
        "chat": chat["choices"][0]["message"]["content"],
        "embedding": len(embedding["data"][0]["embedding"]),
        "azure": azure["choices"][0]["text"],
        "refused": refused,
    },
    sys.stdout,
)
