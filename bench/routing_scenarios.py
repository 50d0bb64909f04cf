"""`make bench-routing`: what the routing promises, against scripted faults, on two instances. Prints a line per case.

`python -m bench.routing_scenarios [--instances 2] [sick hanging …]`; ends with status 1 when a line does not hold.
"""

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Awaitable, Callable

from bench import usage_tables
from bench.routing_affinity import prefix
from bench.routing_attacks import crowd, hung_up, killed, storeless
from bench.routing_capacity import overload, provisioned, told
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
    "told": lambda system: told(system, 30),
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
    """Print what each scenario found; whether all of it holds."""
    all_held = True
    with azurite() as tables:
        async with running(tables, instances) as system:
            for name in names:
                system.simulator.clear()
                system.callers.late = 0.0
                async with system.watched() as leaks:
                    found = await SCENARIOS[name](system)
                    # What waits for a table that has grown slow is no leak.
                    await asyncio.to_thread(usage_tables.drop, system.azurite.connection_string)
                for row in found if isinstance(found, list) else [found]:
                    all_held = all_held and row.held
                    print(f"{_word(row.held)} {row.case}   [{name}]")
                    for text in (f"must: {row.must}", f"was:  {row.measured}"):
                        print(textwrap.fill(text, 118, initial_indent=" " * 9, subsequent_indent=" " * 15))
                if system.callers.late > TOO_LATE:
                    late = f"callers were up to {system.callers.late:.1f} s late"
                    print(f"         the machine was too busy for these figures: {late}")
                all_held = all_held and leaks.none
                print(f"{_word(leaks.none)} no leak: {leaks}", flush=True)
    return all_held


def _word(held: bool) -> str:
    return f"{'held' if held else 'NOT HELD':8}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS], metavar="scenario")
    parser.add_argument("--instances", type=int, default=2)
    given = parser.parse_args()
    print(f"{given.instances} instances of the gateway, four simulated regions, tables in Azurite", flush=True)
    sys.exit(0 if asyncio.run(run(given.names or [*SCENARIOS], given.instances)) else 1)


if __name__ == "__main__":
    main()
