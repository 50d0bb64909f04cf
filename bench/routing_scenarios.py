"""`make bench-routing`: checks the guarantees of the routing against scripted faults, on two instances.

`python -m bench.routing_scenarios [--instances 2] [sick hanging …]` prints a result per case, and exits with 1 if one
does not hold.
"""

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Awaitable, Callable

from bench import usage_tables
from bench.routing_affinity import prefix
from bench.routing_attacks import crowd, hung_up, killed, storeless
from bench.routing_capacity import overload, provisioned, retry_after
from bench.routing_faults import brown_out, dead, flapping, hanging, nameless, sick, slow
from bench.routing_load import TOO_LATE
from bench.routing_streams import dying
from bench.routing_system import Row, System, running
from tests.harness.azurite import azurite

SCENARIOS: dict[str, Callable[[System], Awaitable[Row | list[Row]]]] = {
    "sick": lambda system: sick(system, 90),
    "hanging": lambda system: hanging(system, 60),
    "overload": lambda system: overload(system, 60),
    "overload-1s": lambda system: overload(system, 20, window=1),
    "provisioned": lambda system: provisioned(system, 40),
    "retry-after": lambda system: retry_after(system, 30),
    "dying": lambda system: dying(system, 200),
    "brown-out": lambda system: brown_out(system, 15),
    "slow": lambda system: slow(system, 15),
    "flapping": lambda system: flapping(system, 20),
    "dead": lambda system: dead(system, 8),
    "nameless": lambda system: nameless(system, 8),
    "prefix": prefix,
    "crowd": crowd,
    "hung-up": hung_up,
    "killed": killed,
    "storeless": storeless,
}


async def run(names: list[str], instances: int) -> bool:
    """Run the scenarios and print their results. Returns True if all hold."""
    all_held = True
    with azurite() as tables:
        async with running(tables, instances) as system:
            for name in names:
                system.simulator.clear()
                system.callers.late = 0.0
                async with system.watched() as leaks:
                    results = await SCENARIOS[name](system)
                    # Azurite slows down with many rows, and pending writes would count as a leak.
                    await asyncio.to_thread(usage_tables.drop, system.azurite.connection_string)
                for row in results if isinstance(results, list) else [results]:
                    all_held = all_held and row.held
                    print(f"{_word(row.held)} {row.case}   [{name}]")
                    for text in (f"must: {row.must}", f"was:  {row.measured}"):
                        print(textwrap.fill(text, 118, initial_indent=" " * 9, subsequent_indent=" " * 15))
                if system.callers.late > TOO_LATE:
                    late = f"callers were up to {system.callers.late:.1f} s late"
                    print(f"         the machine was too busy for valid figures: {late}")
                all_held = all_held and leaks.none
                print(f"{_word(leaks.none)} no leak: {leaks}", flush=True)
    return all_held


def _word(held: bool) -> str:
    return f"{'held' if held else 'NOT HELD':8}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS], metavar="scenario")
    parser.add_argument("--instances", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{arguments.instances} instances of the gateway, four simulated regions, tables in Azurite", flush=True)
    sys.exit(0 if asyncio.run(run(arguments.names or [*SCENARIOS], arguments.instances)) else 1)


if __name__ == "__main__":
    main()
