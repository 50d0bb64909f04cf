"""An eval: a criterion for answers, and a run over two of them."""

import time

from openai import OpenAI

with OpenAI() as client:
    evaluation = client.evals.create(
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
        evaluation.id,
        data_source={
            "type": "jsonl",
            "source": {"type": "file_content", "content": [{"item": {"text": "please"}}, {"item": {"text": "now"}}]},
        },
    )
    while (result := client.evals.runs.retrieve(run.id, eval_id=evaluation.id)).status in ("queued", "in_progress"):
        time.sleep(0.2)
    print(result.status, result.result_counts)
    client.evals.delete(evaluation.id)
