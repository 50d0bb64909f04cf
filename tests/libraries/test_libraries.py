"""Libraries get their answers through the gateway, and each of their calls is on record."""

import asyncio
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.sockets import MODELS, served

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / ".local"
VOCABULARIES = HERE.parents[1] / "shared" / "usage" / "vocabularies"  # which it would download
SERVED = {**MODELS, "embed": "text-embedding-3-small"}


async def calls(*words: str, **environment: str) -> list[tuple[str, int]]:
    """The calls of a program with their tokens."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=HERE,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    return [(line["name"], line["output_tokens"]) for line in lines]


def certificate(folder: Path) -> tuple[str, str]:
    """The files of a key and of a certificate: OpenAI's client for Node.js opens secure WebSockets only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    (folder / "cert.pem").write_bytes(made.public_bytes(encoding))
    return str(folder / "key.pem"), str(folder / "cert.pem")


async def test_libraries_for_python() -> None:
    async with served(models_of=SERVED) as app:
        url = app.url.replace("ws", "http", 1)
        made = await calls(str(INSTALLED / "libraries/bin/python"), "program.py", url, await app.key())
        assert len(made) == 9
        assert [row["e_output"] for row in app.rows()] == [tokens for _, tokens in made]


async def test_llama_index() -> None:
    async with served(models_of=SERVED) as app:
        url, cache = app.url.replace("ws", "http", 1), str(VOCABULARIES)
        program = (str(INSTALLED / "llama-index/bin/python"), "llama_index_program.py")
        made = await calls(*program, url, await app.key(), TIKTOKEN_CACHE_DIR=cache)
        assert len(made) == 7
        assert [row["e_output"] for row in app.rows()] == [tokens for _, tokens in made]


async def test_libraries_for_node(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    async with served(models_of=SERVED, tls=tls) as app:
        url = app.url.replace("ws", "http", 1)
        made = await calls("node", "program.mjs", url, await app.key(), NODE_EXTRA_CA_CERTS=tls[1])
        assert len(made) == 5
        assert [row["e_output"] for row in app.rows()] == [tokens for _, tokens in made]
