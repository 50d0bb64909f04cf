"""Load for the `kill -9` benchmark: chat completions, streamed or not, each with a unique tag."""

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
    """A call as its caller sees it. `tag`: its system id; `whole`: the answer arrived in full."""

    tag: str
    stream: bool
    began: float
    whole: bool = False


async def call(session: aiohttp.ClientSession, address: str, key: str, sent: Sent, chance: random.Random) -> None:
    """Make one call and record its result in `sent`. Connection errors are not raised."""
    prompt = " ".join(chance.choice(WORDS) for _ in range(chance.randint(30, 300)))
    content = f"{prompt} simulate_output_tokens={chance.randint(10, 200)}"
    body = {"model": "chat", "messages": [{"role": "user", "content": content}], "stream": sent.stream}
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
