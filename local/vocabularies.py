"""Generates `shared/usage/vocabularies/`, OpenAI's token tables, from the npm package js-tiktoken (MIT).

python -m local.vocabularies

OpenAI publishes the tables with tiktoken (MIT). The tables of the package are converted to the published form and must
have the published SHA-256, so the package need not be trusted. The output is an xz file: the number of tokens, one byte
per token length, then the tokens by rank.
"""

import base64
import hashlib
import json
import lzma
import subprocess
import tarfile
import tempfile
from pathlib import Path

from shared.usage._tokenizer_process import PUBLISHED, VOCABULARIES

PACKAGE = "js-tiktoken@1.0.21"


def main() -> None:
    VOCABULARIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=directory, check=True, stdin=subprocess.DEVNULL)
        (archive,) = Path(directory).glob("*.tgz")
        with tarfile.open(archive) as package:
            for name in PUBLISHED:
                file = package.extractfile(f"package/dist/ranks/{name}.js")
                assert file is not None
                tokens = in_order(file.read().decode())
                published = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
                if hashlib.sha256(published).hexdigest() != PUBLISHED[name]:
                    raise SystemExit(f"{PACKAGE}: {name} does not have the SHA-256 that OpenAI publishes")
                packed = len(tokens).to_bytes(4, "little") + bytes(map(len, tokens)) + b"".join(tokens)
                target = VOCABULARIES / f"{name}.xz"
                target.write_bytes(lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME))
                print(f"{target}: {len(tokens)} tokens, {target.stat().st_size} bytes")


def in_order(module: str) -> list[bytes]:
    """Tokens of a module by rank. Its lines have a word, the first rank, and Base64 tokens."""
    start = module.index('"bpe_ranks":') + len('"bpe_ranks":')
    ranks: dict[int, bytes] = {}
    for line in json.JSONDecoder().raw_decode(module, start)[0].splitlines():
        _, first, *tokens = line.split(" ")
        ranks.update((int(first) + number, base64.b64decode(token)) for number, token in enumerate(tokens))
    return [ranks[rank] for rank in range(len(ranks))]


if __name__ == "__main__":
    main()
