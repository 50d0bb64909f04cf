"""A call with a token of Entra ID instead of a key: of a user (`az login`), a service principal or a managed identity.

Nothing is kept in the program or its environment. `make run` plays a tenant: `.local/env` names its identity endpoint.
"""

import os
from typing import Any

from azure.identity import DefaultAzureCredential, get_bearer_token_provider
from openai import APIStatusError, AzureOpenAI, OpenAI

URL = os.environ["OPENAI_BASE_URL"]
AUDIENCE = os.environ.get("GATEWAY_AUDIENCE", "api://tollgate")
QUESTION = "Who may pass?"

with DefaultAzureCredential() as credential:
    provider = get_bearer_token_provider(credential, f"{AUDIENCE}/.default")  # renews the token before it ends

    with OpenAI(base_url=URL, api_key=provider) as client:
        answer = client.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": QUESTION}])
        print("OpenAI:", answer.choices[0].message.content)

    endpoint = URL.removesuffix("/v1")
    with AzureOpenAI(azure_endpoint=endpoint, azure_ad_token_provider=provider, api_version="2024-10-21") as azure:
        answer = azure.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": QUESTION}])
        print("AzureOpenAI:", answer.choices[0].message.content)

    # The gateway knows the caller by the token, and counts what it uses.
    with OpenAI(base_url=endpoint, api_key=provider) as gateway:
        total = gateway.get("/gateway/usage/me", cast_to=dict[str, Any])["total"]
    print("so far:", total["requests"], "requests,", total["total_tokens"], "tokens")

    # A token for something else opens nothing.
    other = get_bearer_token_provider(credential, "https://cognitiveservices.azure.com/.default")
    with OpenAI(base_url=URL, api_key=other, max_retries=0) as stranger:
        try:
            stranger.models.list()
        except APIStatusError as error:
            print("a token for Azure OpenAI itself:", error.status_code, error.code)
