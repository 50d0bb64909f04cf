"""The gateway with the Azure OpenAI client."""

import os

from openai import AzureOpenAI

endpoint = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
with AzureOpenAI(azure_endpoint=endpoint, api_key=os.environ["OPENAI_API_KEY"], api_version="2024-10-21") as client:
    answer = client.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": "Who pays at the gate?"}]
    )
    print(answer.choices[0].message.content)
