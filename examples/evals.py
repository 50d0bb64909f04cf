"""An eval: what is asked of every answer, and a run over some of them."""

import time

from openai import OpenAI

with OpenAI() as client:
    made = client.evals.create(
        name="polite",
        data_source_config={"type": "custom", "item_schema": {"type": "object"}},
        testing_criteria=[
            {
                "type": "string_check",
                "name": "says please",
                "input": "{{item.text}}",
                "reference": "please",
                "operation": "like",
            }
        ],
    )
    run = client.evals.runs.create(
        made.id,
        data_source={
            "type": "jsonl",
            "source": {"type": "file_content", "content": [{"item": {"text": "please"}}, {"item": {"text": "now"}}]},
        },
    )
    while (found := client.evals.runs.retrieve(run.id, eval_id=made.id)).status in ("queued", "in_progress"):
        time.sleep(0.2)
    print(found.status, found.result_counts)
    client.evals.delete(made.id)
