"""Two texts as vectors, and how near they are."""

import math

from openai import OpenAI

with OpenAI() as client:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["toll", "fee"], dimensions=256)
    first, second = (item.embedding for item in answer.data)
    print(f"{math.sumprod(first, second):.3f} between them, {answer.usage.total_tokens} tokens")
