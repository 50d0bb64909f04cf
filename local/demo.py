"""The demo of `make run`: a key, a first streamed call, and three calls to copy."""

import json
import os
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local.processes import Refused

if TYPE_CHECKING:
    from openai import OpenAI

QUESTION = "In one sentence: what does a gateway in front of several regions do?"
FAVOURITE = "gpt-5.4-mini"
NOT_FOR_CHAT = (
    "embed", "instruct", "whisper", "tts", "dall-e", "image", "audio", "transcribe", "moderation", "realtime", "sora",
)  # fmt: skip


def key(base_url: str, file: Path, root: Path, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The demo key in `file` if the gateway accepts it, otherwise a new one, and the models it may call."""
    try:
        kept = str(json.loads(file.read_bytes())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        kept = ""
    if kept and (names := models(base_url, kept)) is not None:
        return kept, names
    created = _create_key(root, environ)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(created)
    made = str(json.loads(created)["key"])
    names = models(base_url, made)
    if names is None:
        raise Refused(
            "The gateway rejects the new demo key: check that the gateway and the CLI use the same GATEWAY_STORAGE."
        )
    return made, names


def _create_key(root: Path, environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli", "keys", "create", f"demo-{secrets.token_hex(3)}", "--json"],
        cwd=root,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Refused(f"Cannot create the demo key:\n{textwrap.indent(done.stderr.strip() or done.stdout, '  ')}")
    return done.stdout


def models(base_url: str, api_key: str) -> list[str] | None:
    """Models that this key may call; None if the gateway rejects the key."""
    import openai  # takes half a second, so import it after the first line is printed

    try:
        return [model.id for model in client(base_url, api_key).models.list()]
    except openai.AuthenticationError:
        return None
    except openai.APIError as error:
        raise Refused(f"Cannot list the gateway's models: {error}") from error


def client(base_url: str, api_key: str) -> "OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key, max_retries=0, timeout=120)


def chat_model(names: list[str]) -> str | None:
    """The model for the demo calls; None if no chat model is configured."""
    if FAVOURITE in names:
        return FAVOURITE
    return next((name for name in names if not any(word in name.lower() for word in NOT_FOR_CHAT)), None)


def first_call(base_url: str, api_key: str, model: str) -> Iterator[str]:
    """Make one streamed call. Yields the text to print: the answer as it arrives, then the region and times."""
    import openai

    yield f"A first call to {model}, streamed:\n  > {QUESTION}\n  "
    start = time.perf_counter()
    first = 0.0
    usage = None
    try:
        response = client(base_url, api_key).chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in response.parse():
            usage = chunk.usage or usage
            if text := "".join(choice.delta.content or "" for choice in chunk.choices):
                first = first or time.perf_counter() - start
                yield text
    except openai.APIError as error:
        yield f"The call failed: {error}\n  Run the CLI (see below) with `check` to diagnose each backend.\n"
        return
    region = response.headers.get("x-ms-region") or response.headers.get("x-gateway-region") or "an unnamed region"
    tokens = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else ""
    total = time.perf_counter() - start
    yield f"\n  Served by {region}: first content after {first:.2f} s, end after {total:.2f} s{tokens}.\n"


def tokens_to_copy(tenant: Mapping[str, Any]) -> str:
    """Two commands that print an access token of the simulated tenant, as for a real one."""
    lines = []
    for name, about in (("caller", "in place of the key"), ("operator", "in place of the management key")):
        client = tenant["clients"][name]
        lines.append(
            f"The token of a{'n' if name[0] in 'aeiou' else ''} {name}, {about}:\n"
            f"  curl -s {tenant['authority']}/{tenant['id']}/oauth2/v2.0/token -d grant_type=client_credentials "
            f"-d client_id={client['client_id']} -d client_secret={client['client_secret']} "
            f"-d scope={tenant['audiences'][0]}/.default\n"
        )
    return "".join(lines)


def calls_to_copy(base_url: str, api_key: str, model: str) -> str:
    """Three calls to paste into a terminal."""
    ask = f'model="{model}", messages=[{{"role": "user", "content": "Hello"}}]'
    return f"""\
curl {base_url}/v1/chat/completions -H "Authorization: Bearer {api_key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

.venv/bin/python - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{base_url}/v1", api_key="{api_key}")
print(client.chat.completions.create({ask}).choices[0].message.content)
END

.venv/bin/python - <<'END'
from openai import AzureOpenAI
client = AzureOpenAI(azure_endpoint="{base_url}", api_key="{api_key}", api_version="2024-10-21")
print(client.chat.completions.create({ask}).choices[0].message.content)
END
"""
