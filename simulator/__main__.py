"""Command line: `python -m simulator` starts the regions, prints their addresses as one JSON line, and serves."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from .config import InvalidConfig, SimulatorConfig, load_config, with_ports
from .control import Control
from .identity import TOKEN_PATH
from .server import HOST, LOGGER, PortTaken, Simulator, bind

STANDARD_INPUT = 0


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        config = load_config(options.config)
        if options.ports is not None:
            config = with_ports(config, options.ports)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, options.control_port, options.until_input_ends))
    except (InvalidConfig, PortTaken) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: SimulatorConfig, control_port: int, until_input_ends: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if until_input_ends:
        try:
            asyncio.get_running_loop().add_reader(STANDARD_INPUT, stopped.set)
        except OSError as error:
            raise InvalidConfig("--until-input-ends needs a pipe or a terminal as standard input") from error
    control_socket = bind(control_port)
    simulator = Simulator(config)
    control = web.AppRunner(Control(simulator).build(), access_log=None, logger=LOGGER, shutdown_timeout=0)
    await control.setup()
    try:
        await simulator.start()
        await web.SockSite(control, control_socket).start()
        _announce(simulator, control_socket.getsockname()[1])
        await stopped.wait()
    finally:
        simulator.stop()
        await control.cleanup()


def _announce(simulator: Simulator, control_port: int) -> None:
    """Print the line that a parent process waits for: all addresses and credentials."""
    control = f"http://{HOST}:{control_port}"
    places = {
        "regions": {name: f"http://{HOST}:{listener.port}" for name, listener in simulator.listeners.items()},
        "control": control,
        "identity": {"endpoint": control + TOKEN_PATH, "header": simulator.identity.header},
        "tenant": simulator.tenant.places(control),
        "api_key": simulator.api_key,
    }
    print(msgspec.json.encode(places).decode(), flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--config", type=Path, help="JSON file with the regions (default: three with five models)")
    parser.add_argument(
        "--ports", type=_ports, help="one port per region, such as 8081,8082,8083 (default: free ports)"
    )
    parser.add_argument(
        "--control-port", type=_port, default=0, help="port of the control endpoint (default: a free one)"
    )
    parser.add_argument(
        "--until-input-ends",
        action="store_true",
        help="stop when standard input closes, which it does when the parent ends",
    )
    return parser.parse_args(arguments)


def _ports(text: str) -> list[int]:
    return [_port(part) for part in text.split(",")]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: expected 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
