"""Provisioned throughput first, pay-as-you-go for what does not fit: what a caller sees of it.

The gateway is told in its configuration; the program is the same as without. `make run SIMULATE=1` plays it:

    backends:
      - {name: reserved, kind: provisioned, endpoint: https://CONTOSO.openai.azure.com, region: swedencentral,
         models: {gpt-5.4: gpt-5.4-ptu}, tokens_per_minute: {gpt-5.4: 600}}
      - {name: sweden, endpoint: https://CONTOSO.openai.azure.com, region: swedencentral, models: {gpt-5.4: gpt-5.4}}
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

MODEL = "gpt-5.4"
CALLS = 24


def ask(client: OpenAI, number: int) -> tuple[str, int]:
    """The backend that has served, and the tries that it took: a full one is left at once for the next."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Ship {number}: which toll do I pay? simulate_output_tokens=64"}],
        max_completion_tokens=200,
    )
    return raw.headers["x-gateway-backend"], int(raw.headers["x-gateway-attempts"])


with OpenAI() as client, ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(lambda number: ask(client, number), range(CALLS)))
served = Counter(backend for backend, _ in answers)
print("first:", answers[0][0])
for backend, count in served.most_common():
    print(f"{backend}: {count} of {CALLS}")
print("tries:", sum(tries for _, tries in answers), "for", CALLS, "answers, of which none is a 429")
