"""`make run`: starts the gateway and its dependencies, makes a demo call, and stops everything on Ctrl-C.

Without a user configuration the backends are three simulated regions; with one, they may be simulated, too. All files
it writes are in `.local/`.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from local import azurite, demo, sign_in_code
from local.models import ALIASES, MODELS
from local.processes import Child, Children, Refused, free_port, port_is_free
from local.simulated import KEY, Simulated
from shared.config import environment
from shared.edges.http_protocol import UVICORN_OPTIONS

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".local"
PORT = 7071
# Name, value of `x-ms-region`, data zone (None: outside the data zones).
REGIONS = (("swedencentral", "Sweden Central", "eu"), ("eastus2", "East US 2", "us"), ("japaneast", "Japan East", None))
# Roughly the latency of a small model for a small prompt.
DELAYS = {"first_token_seconds": 0.15, "seconds_per_chunk": 0.02}
# Removed, so that the developer's credentials never connect the simulated gateway to real accounts.
FOREIGN = ("AZURE_CLIENT_", "AZURE_TENANT_", "AZURE_FEDERATED_", "GATEWAY_STORAGE", "IDENTITY_", "MSI_")
# Prefixes of the variables that the gateway and the command line read.
SETTINGS = ("GATEWAY_", "IDENTITY_", "AZURE_", "AzureWebJobsStorage", "APPLICATIONINSIGHTS_", "OTEL_")
# Unset in the file to source: OpenAI's Node client for Azure refuses a base URL in the environment, and the developer's
# own sign-in is not for the simulator.
NEVER_EXPORTED = ("OPENAI_BASE_URL",)
OF_A_SIGN_IN = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE")
MANAGEMENT_KEY = "GATEWAY_MANAGEMENT_KEY"
MADE_HERE = "TOLLGATE_LOCAL_RUN"  # holds the variables that a run made: a shell may have sourced them before the next
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """One local run: its options and the gateway's environment."""

    def __init__(self, children: Children, host: str, port: int, *, simulate: bool) -> None:
        self.children = children
        self.host = host
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.initial_environ = without_earlier_run(os.environ)
        self.environ = dict(self.initial_environ)
        # Source of the user's configuration; empty if there is none.
        self.configuration = "gateway.yaml" if (ROOT / "gateway.yaml").exists() else ""
        if self.environ.get("GATEWAY_CONFIG"):
            self.configuration = "GATEWAY_CONFIG"
        self.tenant: dict[str, Any] = {}  # the simulated one
        self.simulated = simulate or not self.configuration
        self.own: Simulated | None = None  # the user's configuration, if its backends are simulated
        if simulate and self.configuration:
            self.own = Simulated(environment.source(self.environ))

    def start(self) -> None:
        """Start everything and wait until the gateway answers."""
        if self.simulated:
            self.environ = {k: v for k, v in self.environ.items() if not k.startswith(FOREIGN)}
            self.initial_environ = dict(self.environ)
        if not self.environ.get(MANAGEMENT_KEY):
            self.environ[MANAGEMENT_KEY] = management_key(STATE / "management-key")
        storage = self._start_azurite() if self._needs_azurite() else None
        simulator = self._start_simulator() if self.simulated else None
        if storage:
            self._wait_for_azurite(storage)
        if simulator:
            self._wait_for_simulator(simulator)
        gateway = self._start_gateway()
        self.children.wait_for("The gateway", self._is_healthy, seconds=120)
        command = "func start" if self.host == "func" else "uvicorn"
        step(
            "gateway", f"{self.base_url} ({command}), configuration: {self.configuration}, log: {relative(gateway.log)}"
        )

    def show(self) -> None:
        """Print a key, a first call, and three calls to copy."""
        key, names = demo.key(self.base_url, STATE / "demo-key.json", ROOT, self.environ)
        model = demo.chat_model(names)
        print()
        if model is None:
            print("No chat model is configured, so there is no demo call.")
        else:
            for text in demo.first_call(self.base_url, key, model):
                print(text, end="", flush=True)
            if self.simulated:
                print("  The regions are simulated: the text is meaningless, everything else matches Azure's answers.")
            print(f"\nThree calls to copy:\n\n{demo.calls_to_copy(self.base_url, key, model)}")
        print(f"URL  {self.base_url}\nKey  {key}")
        print(f"Page  {self.base_url}/gateway/{self._sign_in()}")
        if not self.initial_environ.get(MANAGEMENT_KEY):
            print(f"Management key  {self.environ[MANAGEMENT_KEY]}")
        if self.tenant:
            print(demo.tokens_to_copy(self.tenant))
        file = self._write_environment(key)
        print(f"CLI  . {file}; .venv/bin/tollgate usage    (or check, keys …; in another terminal)\n")

    def _sign_in(self) -> str:
        """The end of a link that signs in. The Functions host runs the app as it is deployed, so it has none."""
        if self.host == "func":
            return ""
        code = sign_in_code.make(STATE / "sign-in-code")
        return f"#sign-in={code}    (signs in once, within {sign_in_code.MINUTES} minutes)"

    def _write_environment(self, key: str) -> str:
        """Write the environment of the CLI and of a caller, as a file to source in a shell."""
        names = {name for name in self.environ if name.startswith(SETTINGS)} | self._named_secrets()
        variables = {name: self.environ[name] for name in sorted(names) if name in self.environ}
        made = [f"{name}={text}" for name, text in variables.items() if self.initial_environ.get(name) != text]
        variables |= {"GATEWAY_URL": self.base_url, "OPENAI_API_KEY": key, MADE_HERE: shlex.join(made)}
        if self.host != "func":
            variables[sign_in_code.FILE] = self.environ[sign_in_code.FILE]
        if "NO_PROXY" in self.environ:
            variables |= dict.fromkeys(("NO_PROXY", "no_proxy"), self.environ["NO_PROXY"])
        unset = NEVER_EXPORTED + (OF_A_SIGN_IN if self.simulated else ())
        exports = (f"export {name}={shlex.quote(text)}" for name, text in variables.items())
        file = STATE / "env"
        file.touch(0o600)
        file.write_text("\n".join([f"unset {' '.join(unset)}", *exports, ""]))
        return relative(file)

    def _named_secrets(self) -> set[str]:
        """The variables that the configuration names: `check` needs the keys of the backends."""
        source = environment.source(self.environ)
        text = source.read() if source.url is None else ""
        return set(re.findall(r"(?:api_key_env|secret_env)\W+(\w+)", text))

    def stay(self) -> None:
        """Follow the gateway's log until a signal arrives, a program ends, or make is killed."""
        parent = os.getppid()
        print("The gateway's log follows; Ctrl-C stops everything.\n", flush=True)
        log = next(child.log for child in self.children.started if child.name == "gateway")
        with log.open(errors="replace") as lines:
            lines.seek(0, os.SEEK_END)
            while os.getppid() == parent:
                print(lines.read(), end="", flush=True)
                self.children.check()
                time.sleep(0.2)

    def _needs_azurite(self) -> bool:
        return not self._is_configured("GATEWAY_STORAGE") or (
            self.host == "func" and not self._is_configured("AzureWebJobsStorage")
        )

    def _is_configured(self, storage: str) -> bool:
        return any(self.environ.get(f"{storage}{form}") for form in ("", "__tableServiceUri", "__accountName"))

    def _start_azurite(self) -> dict[str, int]:
        names = ("table", "blob", "queue") if self.host == "func" else ("table",)
        ports = {name: azurite.PORTS[name] for name in names}
        for name, port in ports.items():
            if not port_is_free(port):
                ports[name] = free_port()
                print(f"Azurite's default port {port} is taken; using port {ports[name]}.", flush=True)
        data = STATE / "azurite"
        data.mkdir(exist_ok=True)
        self.children.start("azurite", azurite.command(ports, data))
        storage = azurite.connection_string(ports)
        if not self._is_configured("GATEWAY_STORAGE"):
            self.environ["GATEWAY_STORAGE"] = storage
        if not self._is_configured("AzureWebJobsStorage"):
            self.environ["AzureWebJobsStorage"] = storage  # the Functions host stores the state of timers there
        return ports

    def _wait_for_azurite(self, ports: dict[str, int]) -> None:
        for port in ports.values():
            self.children.wait_for_port("Azurite", port, seconds=60)
        step("Azurite", f"127.0.0.1:{ports['table']}, data: {relative(STATE / 'azurite')}")

    def _start_simulator(self) -> Child:
        file = STATE / "simulator.json"
        regions = [{"name": name, "display": display} for name, display, _ in REGIONS]
        if self.own is not None:
            regions = self.own.regions()
        file.write_text(json.dumps({"regions": [region | DELAYS for region in regions]}))
        return self.children.start(
            "simulator", [sys.executable, "-m", "simulator", "--config", str(file)], self.environ
        )

    def _wait_for_simulator(self, simulator: Child) -> None:
        addresses = self.children.wait_for("The simulator", lambda: first_line(simulator.log), seconds=60)
        regions: dict[str, str] = addresses["regions"]
        file = STATE / "gateway.yaml"
        self.tenant = addresses["tenant"]
        document = simulated_configuration(regions) if self.own is None else self.own.document(regions)
        file.write_text(
            "# Overwritten by every `make run` with simulated regions: their addresses in that run.\n"
            + yaml.safe_dump(document | {"entra": simulated_tenant(self.tenant, document)}, sort_keys=False)
        )
        self.configuration = relative(file) + (f" (made from {self.configuration})" if self.own is not None else "")
        self.environ |= {
            "GATEWAY_CONFIG": str(file),
            "IDENTITY_ENDPOINT": addresses["identity"]["endpoint"],
            "IDENTITY_HEADER": addresses["identity"]["header"],
            "GATEWAY_SIMULATOR": addresses["control"],
            KEY: addresses["api_key"],
        }
        step("simulator", f"{', '.join(regions)}; its control endpoint lists what it can do: {addresses['control']}/")

    def _start_gateway(self) -> Child:
        self.environ[sign_in_code.FILE] = str(STATE / "sign-in-code")
        command = [sys.executable, "-m", "uvicorn", "--factory", "local.gateway:app", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), *UVICORN_OPTIONS, "--timeout-graceful-shutdown", "3"]
        if self.host == "func":
            command = [functions_core_tools(), "start", "--port", str(self.port)]
            self.environ |= {
                "FUNCTIONS_WORKER_RUNTIME": "python",
                "languageWorkers__python__defaultExecutablePath": sys.executable,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
                "VIRTUAL_ENV": sys.prefix,
            }
        return self.children.start("gateway", command, self.environ)

    def _is_healthy(self) -> bool | None:
        try:
            with urllib.request.urlopen(f"{self.base_url}/healthz", timeout=5) as answer:
                return True if answer.status == 200 else None
        except (urllib.error.URLError, OSError):
            return None


def without_earlier_run(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of an earlier run, whose backends and tables are gone."""
    made = dict(pair.split("=", 1) for pair in shlex.split(environ.get(MADE_HERE, "")))
    return {name: text for name, text in environ.items() if name != MADE_HERE and made.get(name) != text}


def simulated_tenant(tenant: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The section `entra`, for tokens of the simulated tenant, with the document's own rules."""
    return {
        "authority": tenant["authority"],
        "tenants": [tenant["id"]],
        "audiences": tenant["audiences"],
        "page_client_id": tenant["page_client_id"],
        "callers": document.get("entra", {}).get("callers", [{"app_role": "Gateway.Call"}]),
    }


def simulated_configuration(endpoints: dict[str, str]) -> dict[str, Any]:
    return {
        "backends": [
            {"name": name, "endpoint": endpoints[name], "region": name}
            | ({"data_zone": zone} if zone else {})
            | {"auth": "managed_identity", "api_version": "v1", "models": {model: model for model in MODELS}}
            for name, _, zone in REGIONS
        ],
        "models": {model: {"aliases": list(aliases)} for model, aliases in ALIASES.items()},
    }


def first_line(log: Path) -> dict[str, Any] | None:
    """The JSON object in a log's first line; None while the line is incomplete."""
    line, end, _ = log.read_text(errors="replace").partition("\n")
    if not end:
        return None
    try:
        return dict(json.loads(line))
    except ValueError:
        raise Refused(f"The first line of {relative(log)} is not JSON: {line[:200]}") from None


def functions_core_tools() -> str:
    path = shutil.which("func")
    if path is None:
        raise Refused(
            "HOST=func needs Azure Functions Core Tools 4, and `func` is not on PATH: install them "
            "(npm install -g azure-functions-core-tools@4), or omit HOST to run under uvicorn."
        )
    return path


def chosen_port(port: str | None) -> int:
    text = port or str(PORT)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Refused(f"PORT must be a number from 1 to 65535, not {text!r}.")
    if not port_is_free(int(text)):
        raise Refused(
            f"Port {text} is taken or not allowed: stop the program that uses it, or choose another port, "
            "for example with `make run PORT=7072`."
        )
    return int(text)


@contextlib.contextmanager
def only_run() -> Iterator[int]:
    """Lock the data folder against a second run. Yields the lock's descriptor, which the programs inherit."""
    with (STATE / "lock").open("a") as lock:
        for _ in range(50):  # the programs of a killed launcher need a few seconds to end
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        else:
            raise Refused("Tollgate is already running in this folder: stop that run first (Ctrl-C in its terminal).")
        yield lock.fileno()


def management_key(file: Path) -> str:
    """The management key of the runs in this folder."""
    with contextlib.suppress(OSError):
        if len(kept := file.read_text().strip()) >= 32:
            return kept
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(made := secrets.token_urlsafe(32))
    return made


def step(name: str, text: str) -> None:
    print(f"  {name:<10} {text}", flush=True)


def relative(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def interrupt(*_: object) -> None:
    for number in SIGNALS:  # the shutdown itself must not be interrupted
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make run", description="Runs the gateway on this machine.")
    parser.add_argument("--host", choices=["uvicorn", "func"], default="uvicorn", help="the server (make run HOST=...)")
    parser.add_argument("--simulate", action="store_true", help="simulate the backends (make run SIMULATE=1)")
    options = parser.parse_args()
    host = options.host
    for number in SIGNALS:
        signal.signal(number, interrupt)
    # All connections are local, so bypass any proxy.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    started = time.monotonic()
    try:
        if host == "func":
            functions_core_tools()
        port = chosen_port(os.environ.get("PORT"))
        (STATE / "logs").mkdir(parents=True, exist_ok=True)
        with only_run() as lock, Children(ROOT, STATE / "logs", inherited=[lock]) as children:
            print("Starting Tollgate", flush=True)
            run = Run(children, host, port, simulate=options.simulate)
            run.start()
            run.show()
            print(f"Ready after {time.monotonic() - started:.1f} s.", end=" ")
            run.stay()
    except Refused as reason:
        print(f"\n{reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("\nStopped.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
