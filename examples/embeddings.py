"""Embeddings of two texts, and their similarity."""

import math

from openai import OpenAI

with OpenAI() as client:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["toll", "fee"], dimensions=256)
    first, second = (item.embedding for item in answer.data)
    print(f"similarity {math.sumprod(first, second):.3f}, {answer.usage.total_tokens} tokens")
