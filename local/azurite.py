"""Azurite, the storage emulator: its command line and connection string."""

import shutil
from pathlib import Path

from local.processes import Refused

PROGRAMS = Path(__file__).resolve().parent / "node_modules" / "azurite" / "dist" / "src"
ACCOUNT = "devstoreaccount1"
# The emulator's well-known key, published by Microsoft.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PORTS = {"table": 10002, "blob": 10000, "queue": 10001}


def command(ports: dict[str, int], data: Path | None = None) -> list[str]:
    """Command that starts the services in `ports`: the table service, or all three. Without `data`: in memory."""
    node = shutil.which("node")
    program = PROGRAMS / ("table/main.js" if ports.keys() == {"table"} else "azurite.js")
    if node is None or not program.exists():
        raise Refused("Azurite, the storage emulator, is not installed: run `make run` or `make test` to install it.")
    listen = [
        word for name, port in ports.items() for word in (f"--{name}Port", str(port), f"--{name}Host", "127.0.0.1")
    ]
    keep = ["--inMemoryPersistence"] if data is None else ["--location", str(data)]
    return [node, str(program), *listen, *keep, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]


def connection_string(ports: dict[str, int], account: str = ACCOUNT) -> str:
    endpoints = "".join(
        f"{name.capitalize()}Endpoint=http://127.0.0.1:{port}/{account};" for name, port in ports.items()
    )
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={KEY};{endpoints}"
