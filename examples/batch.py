"""A batch: many requests in one file, answered later at a lower price in another file."""

import json
import time

from openai import OpenAI

with OpenAI() as client:
    body = {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "Who pays at the gate?"}]}
    lines = [
        {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(3)
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    file = client.files.create(file=("requests.jsonl", text.encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    print(batch.status, batch.request_counts)
    if batch.output_file_id:
        for line in client.files.content(batch.output_file_id).text.splitlines():
            print(json.loads(line)["custom_id"])
