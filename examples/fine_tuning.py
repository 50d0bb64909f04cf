"""A fine-tuning job, from the training file to the name of the model."""

import json
import time

from openai import OpenAI

EXAMPLE = {"messages": [{"role": "user", "content": "Who pays?"}, {"role": "assistant", "content": "You do."}]}

with OpenAI() as client:
    lines = "\n".join([json.dumps(EXAMPLE)] * 10)
    file = client.files.create(file=("examples.jsonl", lines.encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="gpt-5.4-mini", training_file=file.id, suffix="example")
    while job.status in ("validating_files", "queued", "running"):
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    print(job.status, job.fine_tuned_model)
    print([event.message for event in client.fine_tuning.jobs.list_events(job.id)])
