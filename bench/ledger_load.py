"""The ledger's load: calls of several APIs, some of whose callers leave in the middle, each with a name of its own."""

import asyncio
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
KINDS = {  # path, and whether it streams
    "chat": ("/v1/chat/completions", False),
    "chat stream": ("/v1/chat/completions", True),
    "completion": ("/v1/completions", False),
    "completion stream": ("/v1/completions", True),
    "embedding": ("/v1/embeddings", False),
    "response": ("/v1/responses", False),
    "response stream": ("/v1/responses", True),
}
MODELS = {"completion": "instruct", "completion stream": "instruct", "embedding": "embed"}


class Sent(msgspec.Struct):
    """What a caller knows of its call. `tag` is the system it named; `whole`: it got its answer in full."""

    tag: str
    kind: str
    began: float
    left: bool = False
    request_id: str = ""
    status: int = 0
    whole: bool = False


def body(kind: str, chance: random.Random) -> bytes:
    prompt = " ".join(chance.choice(WORDS) for _ in range(chance.randint(30, 300)))
    fields: dict[str, object] = {"model": MODELS.get(kind, "chat")}
    if kind == "embedding":
        fields["input"] = prompt
    elif kind.startswith("completion"):
        fields |= {"prompt": prompt, "max_tokens": chance.randint(20, 120)}
    elif kind.startswith("response"):
        fields["input"] = prompt
    else:
        fields["messages"] = [{"role": "user", "content": f"{prompt} simulate_output_tokens={chance.randint(10, 200)}"}]
    if kind.endswith("stream"):
        fields["stream"] = True
    return msgspec.json.encode(fields)


async def call(
    session: aiohttp.ClientSession, address: str, key: str, sent: Sent, data: bytes, leave_after: int | None
) -> None:
    """One call; `leave_after` so many chunks its caller hangs up. However it fails, `sent` tells how far it came."""
    path, stream = KINDS[sent.kind]
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "systemId": sent.tag}
    sent.began = time.time()
    tail, chunks = b"", 0
    try:
        async with session.post(address + path, data=data, headers=headers) as answer:
            sent.status, sent.request_id = answer.status, answer.headers.get("x-gateway-request-id", "")
            async for chunk in answer.content.iter_any():
                tail, chunks = (tail + chunk)[-400:], chunks + 1
                if leave_after is not None and chunks >= leave_after:
                    sent.left = True
                    answer.close()
                    return
        whole = b"[DONE]" in tail or b"response.completed" in tail if stream else True
        sent.whole = answer.status == 200 and whole
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    except asyncio.CancelledError:
        sent.left = True
        raise
