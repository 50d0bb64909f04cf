"""The ledger's load under `kill -9`: chat completions, streams and not, each with a name of its own."""

import random
import time

import aiohttp
import msgspec

WORDS = (
    "toll",
    "gate",
    "road",
    "harbour",
    "noon",
    "winter",
    "morning",
    "tide",
    "quiet",
    "paid",
    "north",
    "ships",
    "sail",
)


class Sent(msgspec.Struct):
    """What a caller knows of its call. `tag` is the system it named; `whole`: it got its answer in full."""

    tag: str
    stream: bool
    began: float
    whole: bool = False


async def call(session: aiohttp.ClientSession, address: str, key: str, sent: Sent, chance: random.Random) -> None:
    """One call. However it fails, `sent` tells how far it came."""
    prompt = " ".join(chance.choice(WORDS) for _ in range(chance.randint(30, 300)))
    asked = f"{prompt} simulate_output_tokens={chance.randint(10, 200)}"
    body = {"model": "chat", "messages": [{"role": "user", "content": asked}], "stream": sent.stream}
    headers = {"authorization": f"Bearer {key}", "systemId": sent.tag}
    sent.began = time.time()
    tail = b""
    try:
        async with session.post(f"{address}/v1/chat/completions", json=body, headers=headers) as answer:
            async for chunk in answer.content.iter_any():
                tail = (tail + chunk)[-400:]
        sent.whole = answer.status == 200 and (b"[DONE]" in tail or not sent.stream)
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
