"""Two ways to use several regions: a program that takes turns itself, and one that leaves it to the gateway.

The first has a list of endpoints and keys, a loop, and a rule for each way to fail. The second has one URL: the gateway
takes turns, fails over, and says in the headers who has served.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator

from openai import APIConnectionError, AzureOpenAI, InternalServerError, OpenAI, RateLimitError

MODEL = "gpt-5.4-mini"
CALLS = 12


def by_turns(endpoints: list[tuple[str, str]], question: str) -> Iterator[str]:
    """Call the endpoints in turn, each with its key; go on to the next one if a region fails or is full."""
    clients = [AzureOpenAI(azure_endpoint=at, api_key=key, api_version="2024-10-21") for at, key in endpoints]
    turn = itertools.cycle(clients)
    for _ in range(CALLS):
        for client in itertools.islice(turn, len(clients)):
            try:
                answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": question}])
            except (RateLimitError, InternalServerError, APIConnectionError):
                continue  # what to do with the region now, and for how long, is still to be written
            yield answer.choices[0].message.content or ""
            break


def through_the_gateway(question: str) -> Counter[str]:
    """The number of calls that each region has served."""
    served: Counter[str] = Counter()
    with OpenAI() as client:
        for _ in range(CALLS):
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL, messages=[{"role": "user", "content": question}]
            )
            tries = int(raw.headers["x-gateway-attempts"])
            print(f"  {raw.headers['x-gateway-region']}{f', after {tries - 1} that failed' if tries > 1 else ''}")
            served[raw.headers["x-gateway-region"]] += 1
    return served


# The gateway speaks Azure's paths as well, so it stands in for two resources here; put two of yours in their place.
gateway = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
places = [(gateway, os.environ["OPENAI_API_KEY"])] * 2
print(f"by turns: {len(list(by_turns(places, 'Which gate is open?')))} answers of {CALLS}")
print("through the gateway:")
for region, count in sorted(through_the_gateway("Which gate is open?").items()):
    print(f"{region}: {count} of {CALLS}")
