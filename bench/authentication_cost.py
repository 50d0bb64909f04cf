"""`make bench-authentication`: the CPU of authentication per call, by key and by token of Entra ID, good and bad."""

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import Iterable

from shared.auth import keys
from shared.auth.authenticator import Authenticator
from shared.auth.consumers import Consumers
from shared.config.callers import CallerRule, EntraSettings
from shared.config.limits import Limits
from shared.errors import GatewayError
from simulator.process import SimulatorProcess
from tests.harness.consumers import create_consumer
from tests.harness.memory_store import MemoryStore

CALLS = 20_000
TOKENS = 2_000
GROUPS = [f"11111111-2222-3333-4444-{number:012}" for number in range(20)]
FOREIGN = "0123456789abcdef0123456789abcde7"


async def cost(authenticator: Authenticator, credentials: Iterable[str]) -> float:
    """Microseconds per call. Refusals count like the rest."""
    raw = [f"Bearer {text}".encode() for text in credentials]
    started = time.process_time()
    for value in raw:
        with contextlib.suppress(GatewayError):
            await authenticator.authenticate({"authorization": value.decode("latin-1")})
    return (time.process_time() - started) / len(raw) * 1e6


async def measure(simulator: SimulatorProcess) -> None:
    tenant, store = simulator.tenant, MemoryStore()
    consumers, rules = Consumers(store), [CallerRule(app_role="Gateway.Call")]
    settings = EntraSettings([tenant["id"]], tenant["audiences"], rules, tenant["authority"])
    first = Authenticator(consumers, store.now)
    authenticator = first.with_settings(settings)
    consumer, key = await create_consumer(consumers, "bench", models=None, limits=Limits())
    record = await consumers.find(consumer.id)
    assert record is not None
    await consumers.import_key(record, keys.digest_to_import(FOREIGN))
    token = simulator.token("ann", kind="user", roles=["Gateway.Call"], groups=GROUPS)
    signed = token.rpartition(".")[0]
    forged = [f"{signed}.{base64.urlsafe_b64encode(os.urandom(256)).decode().rstrip('=')}" for _ in range(TOKENS)]
    for text in (key, FOREIGN, token):
        await authenticator.authenticate({"authorization": f"Bearer {text}"})
    await asyncio.sleep(0.2)  # the row of the identity is written
    cases: dict[str, Iterable[str]] = {
        "a key": [key] * CALLS,
        "a foreign key": [FOREIGN] * CALLS,
        f"a known token of {len(token):,} characters": [token] * CALLS,
        "the first call with a token": [
            simulator.token(f"caller-{number}", roles=["Gateway.Call"]) for number in range(TOKENS // 10)
        ],
        "a token for another audience": [
            simulator.token(str(number), audience="api://other") for number in range(TOKENS // 10)
        ],
        "a token with a wrong signature": forged,
        "the same again": forged,
        "a guessed key": [f"sk-{number:040}" for number in range(CALLS)],
    }
    for name, credentials in cases.items():
        print(f"CPU of {name:38} {await cost(authenticator, credentials):7.1f} µs")
    await first.close()


def main() -> None:
    with SimulatorProcess() as simulator:
        asyncio.run(measure(simulator))


if __name__ == "__main__":
    main()
