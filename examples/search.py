"""A file in a vector store, searched directly and by a response. All objects are in one region, the caller's home."""

import time

from openai import OpenAI

with OpenAI() as client:
    file = client.files.create(file=("tides.txt", b"The tide is high at noon."), purpose="assistants")
    store = client.vector_stores.create(name="tides", file_ids=[file.id])
    while store.status == "in_progress":
        time.sleep(0.1)
        store = client.vector_stores.retrieve(store.id)
    for result in client.vector_stores.search(store.id, query="When is the tide high?"):
        print(result.filename, result.score)

    answer = client.responses.create(
        model="gpt-5.4-mini",
        input="When is the tide high?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
    )
    print(answer.output_text)
    client.vector_stores.delete(store.id)
    client.files.delete(file.id)
