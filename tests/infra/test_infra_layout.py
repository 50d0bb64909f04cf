"""The function app's package and the image, laid out by hand and started: no Docker engine and no Azure is needed."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pathspec import GitIgnoreSpec

from local.processes import free_port
from shared import __version__
from shared.config import environment as config_environment
from shared.config import parsing
from simulator.process import SimulatorProcess
from tests.harness.azurite import Azurite
from tests.harness.gateway_process import Answer, cli, make_key, request
from tests.infra import layout
from tests.infra.snapshots import ROOT

MEGABYTE = 1_000_000
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
WRITABLE = "/tmp"  # noqa: S108 - of a container whose file system is read-only
KUBERNETES = ROOT / "deploy" / "kubernetes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layout")


@pytest.fixture(scope="module")
def packages(folder: Path) -> Path:
    lists = [word for word in layout.instruction("packages", "COPY") if word.startswith("requirements")]
    layout.link_packages(layout.pinned(*lists), folder / "packages")
    return folder / "packages"


@contextmanager
def process(
    command: Sequence[str], cwd: Path, environ: Mapping[str, str], **user: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A program with that environment alone; its output is shown when the test fails."""
    with tempfile.TemporaryFile() as log:
        basics = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        running = subprocess.Popen(
            command, cwd=cwd, env={**basics, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **user
        )
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()
            running.wait()
            log.seek(0)
            print(log.read().decode(errors="replace"))


def wait_for(port: int, running: subprocess.Popen[bytes], path: str = "/healthz") -> Answer:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return request(("127.0.0.1", port), "GET", path)
        time.sleep(0.05)
    pytest.fail("it does not answer")


def core_tools_accept(rules: Sequence[str], path: str) -> bool:
    """Core Tools' reading of .funcignore, which is not git's: patterns begin a path, and an exception always wins."""

    def matched(patterns: Sequence[str]) -> bool:
        escaped = (re.sub(r"[-\[\]/{}()+?.\\^$|]", r"\\\g<0>", pattern.removeprefix("/")) for pattern in patterns)
        words = (word.replace("**", "(.+)").replace("*", "([^/]+)") for word in escaped)
        return re.match(rf"(?:{'|'.join(f'(?:{word})' for word in words)})\b", path, re.ASCII) is not None

    kept = [rule for rule in rules if rule and not rule.startswith("#")]
    return matched([rule[1:] for rule in kept if rule.startswith("!")]) or not matched(
        [rule for rule in kept if not rule.startswith("!")]
    )


class TestThePackage:
    @pytest.fixture(scope="class")
    def package(self, folder: Path) -> Path:
        """As Azure unpacks it: the files, and their dependencies in .python_packages."""
        layout.package(folder / "package")
        return folder / "package"

    def environment(self, package: Path, folder: Path) -> dict[str, str]:
        # The worker library is the platform's, so it is not in the package.
        layout.link_packages(["azure-functions-runtime"], folder / "platform")
        document = (ROOT / "gateway.sample.yaml").read_text()
        return {
            "PYTHONPATH": f"{package}/.python_packages/lib/site-packages{os.pathsep}{folder / 'platform'}",
            "GATEWAY_CONFIG": document,
            "GATEWAY_STORAGE": "UseDevelopmentStorage=true",
            "EASTUS_KEY": "x",
        }

    def test_it_holds_what_runs_and_nothing_else(self, package: Path) -> None:
        names = {path.name for path in package.iterdir()} - {"gateway.yaml"}
        assert names == {".python_packages", "function_app.py", "host.json", "requirements.txt", "shared"}
        assert {path.suffix for path in (package / "shared").rglob("*") if path.is_file()} <= {
            *(".css", ".html", ".js", ".json", ".mjs", ".py", ".svg", ".typed", "")  # "": tiktoken's tables
        }

    @pytest.mark.parametrize(
        "path",
        ["accounts.json", "october.csv", ".env", "local.settings.json", "infra/x.bicep", ".azure/x/.env"],
    )
    def test_a_file_that_a_guide_writes_into_the_clone_stays_out(self, path: str) -> None:
        rules = (ROOT / ".funcignore").read_text().splitlines()
        assert GitIgnoreSpec.from_lines(rules).match_file(path)
        assert not core_tools_accept(rules, path)

    @pytest.mark.parametrize("path", ["function_app.py", "host.json", "shared/asgi.py", ".python_packages/lib/x.py"])
    def test_the_app_gets_in(self, path: str) -> None:
        rules = (ROOT / ".funcignore").read_text().splitlines()
        assert not GitIgnoreSpec.from_lines(rules).match_file(path)
        assert core_tools_accept(rules, path)

    def test_it_is_smaller_than_60_megabytes(self, package: Path) -> None:
        files = [path for path in package.rglob("*") if path.is_file()]
        unpacked, zipped = sum(path.stat().st_size for path in files), layout.compressed(files)
        print(f"package: {zipped / MEGABYTE:.1f} MB zipped, {unpacked / MEGABYTE:.1f} MB unpacked, {len(files)} files")
        assert zipped < 60 * MEGABYTE  # what is uploaded, stored and fetched at a cold start
        assert unpacked < 90 * MEGABYTE  # three quarters of it in ten packages: `make package-size`

    def test_it_starts_under_the_worker_and_answers(self, package: Path, folder: Path) -> None:
        host = folder / "host"
        (host / "tests" / "harness").mkdir(parents=True, exist_ok=True)
        for module in (ROOT / "tests" / "harness").glob("functions_host*.py"):
            shutil.copy(module, host / "tests" / "harness")
        port = free_port()
        command = [layout.PYTHON, "-m", "tests.harness.functions_host", str(package), str(port)]
        environment = self.environment(package, folder)
        environment["PYTHONPATH"] += f"{os.pathsep}{host}"
        with process(command, package, environment) as running:
            assert wait_for(port, running).status == 200
            assert request(("127.0.0.1", port), "GET", "/v1/models").error()["code"] == "invalid_api_key"

    def test_what_the_start_imports_comes_from_the_package(self, package: Path, folder: Path) -> None:
        program = (
            "import sys, time; t = time.perf_counter(); import function_app; t = time.perf_counter() - t\n"
            "print(t, *{m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)}, sep='\\n')"
        )
        environ = self.environment(package, folder)
        for _ in range(2):  # the first run compiles
            command = [layout.PYTHON, "-c", program]
            done = subprocess.run(command, cwd=package, env=environ, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        seconds, *files = done.stdout.split("\n")
        print(f"import of function_app: {float(seconds):.2f} s, {len(files)} modules")
        assert not [file for file in files if file.startswith(str(ROOT))]


class TestTheImage:
    """The Dockerfile's steps by hand: what .dockerignore leaves is copied, the packages are linked, CMD is run."""

    @pytest.fixture(scope="class")
    def image(self, folder: Path) -> Path:
        context = list(layout.kept(".dockerignore"))
        for stage in ("gateway", "simulator"):
            source, _ = layout.instruction(stage, "COPY")
            layout.copy((path for path in context if path.startswith(source + "/")), folder / "image")
        return folder / "image"

    def test_the_context_holds_what_is_copied_and_no_more(self) -> None:
        roots = {path.split("/")[0] for path in layout.kept(".dockerignore")}
        assert roots == {"requirements.txt", "requirements-container.txt", "shared", "simulator"}

    def test_compose_by_hand_answers_and_ends_in_an_orderly_way(
        self, image: Path, packages: Path, folder: Path, azurite: Azurite
    ) -> None:
        """The services of compose.yaml with other ports; a stream that is open at SIGTERM ends whole, on record."""
        ports = {"8081": free_port(), "8082": free_port(), "8080": free_port()}
        files = {}
        for name in ("gateway.yaml", "simulator.json"):
            said = (ROOT / "deploy" / "compose" / name).read_text()
            files[name] = folder / name
            files[name].write_text(re.sub("808[12]", lambda match: str(ports[match[0]]), said))
        gateway, simulator = COMPOSE["services"]["gateway"], COMPOSE["services"]["simulator"]
        environ = {name: value for name, value in gateway["environment"].items() if "$" not in value}
        environ |= {"PYTHONPATH": str(packages), "GATEWAY_STORAGE": azurite.connection_string}
        environ["GATEWAY_CONFIG"] = str(files["gateway.yaml"])
        simulate = [*layout.instruction("simulator", "ENTRYPOINT"), *simulator["command"]]
        serve = layout.instruction("gateway", "CMD")
        serve[serve.index("0.0.0.0")] = "127.0.0.1"
        serve[serve.index("8080")] = str(ports["8080"])
        simulate[-1] = str(files["simulator.json"])
        key = make_key(azurite.connection_string, "image")
        with (
            process([layout.PYTHON, *simulate[1:]], image, {"PYTHONPATH": str(packages)}),
            process([layout.PYTHON, *serve[1:]], image, environ) as running,
        ):
            assert wait_for(ports["8080"], running).status == 200
            body = json.dumps(
                {
                    "model": "gpt-5.4-mini",
                    "stream": True,
                    "max_completion_tokens": 400,
                    "messages": [{"role": "user", "content": "Hello"}],
                }
            ).encode()
            connection = http.client.HTTPConnection("127.0.0.1", ports["8080"], timeout=30)
            with contextlib.closing(connection):
                headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                for _ in range(100):  # the simulator may still be starting
                    connection.request("POST", "/v1/chat/completions", body, headers)
                    response = connection.getresponse()
                    if response.status == 200:
                        break
                    response.read()
                    time.sleep(0.1)
                assert response.status == 200
                first = response.read(10)
                threading.Timer(0.05, running.terminate).start()
                rest = response.read()
            assert (first + rest).endswith(b"data: [DONE]\n\n")
            running.wait(20)
        usage = cli({**environ, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}, "usage", "--by", "key", "--json")
        assert "image" in json.dumps(usage)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_it_runs_as_any_user_of_the_root_group(
        self, image: Path, packages: Path, azurite: Azurite, simulator: SimulatorProcess
    ) -> None:
        """As OpenShift runs it: a user without a name and a home, in the group 0, who may write to /tmp alone."""
        anybody = 1_000_650_000
        model = {"models": {"gpt-4o": "gpt-4o-prod"}, "region": "swedencentral"}
        backend = {"name": "sweden", "endpoint": simulator.regions["swedencentral"], **model}
        settings = {"backends": [backend], "ledger": {"durability": "recorded"}}  # on the disk, and then in the table
        port = free_port()
        serve = layout.instruction("gateway", "CMD")
        serve[serve.index("0.0.0.0")], serve[serve.index("8080")] = "127.0.0.1", str(port)
        with tempfile.TemporaryDirectory(dir=WRITABLE) as opened:
            app, waiting = Path(opened, "app"), Path(opened, "tmp")
            shutil.copytree(image, app)
            waiting.mkdir()
            for path, mode in ((Path(opened), 0o755), (app, 0o555), (waiting, 0o770)):
                path.chmod(mode)
            environ = {
                **{"PYTHONPATH": f"{Path(opened, 'packages')}", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(waiting)},
                **{"GATEWAY_CONFIG": json.dumps(settings), "GATEWAY_STORAGE": azurite.connection_string},
                **simulator.identity_environment,
            }
            Path(opened, "packages").symlink_to(shutil.copytree(packages, Path(opened, "copied"), symlinks=True))
            user = {"user": anybody, "group": 0, "extra_groups": [], "umask": 0o022}
            key = make_key(azurite.connection_string, "anybody")
            # Python itself may be installed where only root may look.
            python = Path(opened, "python")
            linked = subprocess.run(["cp", "-al", sys.base_prefix, python], capture_output=True, text=True)
            if linked.returncode != 0:
                pytest.skip(f"Python cannot be linked to where everybody may run it: {linked.stderr[:100]}")
            environ["LD_LIBRARY_PATH"] = str(python / "lib")
            with process([str(python / "bin" / "python3"), *serve[1:]], app, environ, **user) as running:
                assert wait_for(port, running).status == 200
                status = Path(f"/proc/{running.pid}/status").read_text()
                assert re.search(rf"^Uid:\t{anybody}\t", status, re.M)
                body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
                headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
                assert request(("127.0.0.1", port), "POST", "/v1/chat/completions", body, headers).status == 200
                assert {path.stat().st_uid for path in waiting.iterdir()} == {anybody}
                running.terminate()
                assert running.wait(20) in (0, -15)

    def test_it_has_the_command_line_on_its_path(self, image: Path, packages: Path, folder: Path) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        (text,) = re.findall(r"printf '(.+)' >/usr/local/bin/tollgate", dockerfile)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(layout.PYTHON)
        command = folder / "bin" / "tollgate"
        command.write_text(text.replace("\\n", "\n").replace("/packages:/app", f"{packages}:{image}"))
        command.chmod(0o755)
        done = subprocess.run([command, "--version"], env={"PATH": str(folder / "bin")}, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"tollgate {__version__}\n", "")

    def test_it_is_not_root_and_its_health_check_asks_the_port_that_it_serves(self) -> None:
        (user,) = layout.instruction("gateway", "USER")
        serve = layout.instruction("gateway", "CMD")
        (port,) = layout.instruction("gateway", "EXPOSE")
        check = layout.instruction("gateway", "HEALTHCHECK")
        assert user.isdigit()
        assert int(user) > 0
        assert layout.instruction("simulator", "USER") == [user]
        assert serve[serve.index("--port") + 1] == port
        assert f"http://127.0.0.1:{port}/healthz" in check[-1]


class TestWhatIsDeclared:
    """compose.yaml and the manifests agree with the image and with what config.py reads."""

    def manifests(self) -> dict[str, dict[str, Any]]:
        (names,) = [yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]]
        documents = [document for name in names for document in yaml.safe_load_all((KUBERNETES / name).read_text())]
        assert {*names, "kustomization.yaml", "gateway.yaml"} == {path.name for path in KUBERNETES.iterdir()}
        return {document["kind"]: document for document in documents}

    def read_by_the_code(self) -> str:
        return "".join(
            (ROOT / "shared" / name).read_text()
            for name in ("config/environment.py", "config/document.py", "credentials.py")
        )

    def test_the_configurations_are_valid(self) -> None:
        for path in (ROOT / "deploy" / "compose" / "gateway.yaml", KUBERNETES / "gateway.yaml"):
            assert parsing.parse(path.read_text(), str(path)).backends

    def test_compose(self) -> None:
        services = COMPOSE["services"]
        gateway, simulator = services["gateway"], services["simulator"]
        (port,) = layout.instruction("gateway", "EXPOSE")
        assert [published.split(":")[1] for published in gateway["ports"]] == [port]
        (volume,) = gateway["volumes"]
        source, target, _ = volume.split(":")
        assert (ROOT / source).is_file()
        assert gateway["environment"]["GATEWAY_CONFIG"] == target
        assert (ROOT / simulator["volumes"][0].split(":")[0]).is_file()
        for name in gateway["environment"].keys() - {"SIMULATOR_KEY"}:
            assert f'"{name}"' in self.read_by_the_code(), name
        simulated = json.loads((ROOT / "deploy" / "compose" / "simulator.json").read_text())
        assert gateway["environment"]["SIMULATOR_KEY"] == simulated["api_key"]
        backends = parsing.parse((ROOT / source).read_text(), source).backends
        assert {b.endpoint: b.region for b in backends} == {
            f"http://127.0.0.1:{region['port']}": region["name"] for region in simulated["regions"]
        }
        assert ":10002/" in gateway["environment"]["GATEWAY_STORAGE"]
        assert "10002" in services["azurite"]["command"]
        version = json.loads((ROOT / "local" / "package.json").read_text())["dependencies"]["azurite"]
        assert services["azurite"]["image"].partition("@")[0].endswith(":" + version)
        assert gateway["read_only"]
        assert gateway["tmpfs"] == [WRITABLE]
        assert int(gateway["stop_grace_period"].removesuffix("s")) > self.patience()

    def patience(self) -> int:
        serve = layout.instruction("gateway", "CMD")
        return int(serve[serve.index("--timeout-graceful-shutdown") + 1])

    def test_kubernetes(self) -> None:
        manifests = self.manifests()
        kinds = "Namespace ServiceAccount Deployment Service HorizontalPodAutoscaler PodDisruptionBudget NetworkPolicy"
        assert manifests.keys() == set(kinds.split())
        deployment, service = manifests["Deployment"]["spec"], manifests["Service"]["spec"]
        pod = deployment["template"]["spec"]
        (container,) = pod["containers"]
        labels = deployment["template"]["metadata"]["labels"]
        for selector in (
            deployment["selector"]["matchLabels"],
            service["selector"],
            manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
        assert labels["azure.workload.identity/use"] == "true"
        assert pod["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
        assert (
            manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
            == manifests["Deployment"]["metadata"]["name"]
        )
        assert "replicas" not in deployment  # or every deployment undoes what the autoscaler did
        (expose,) = layout.instruction("gateway", "EXPOSE")
        (port,) = container["ports"]
        assert port["containerPort"] == int(expose)
        assert service["ports"][0]["targetPort"] == port["name"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
        assert pod["automountServiceAccountToken"] is False
        startup = container["startupProbe"]
        assert f"http://127.0.0.1:{expose}/readyz" in startup["exec"]["command"][-1]
        assert (
            startup["periodSeconds"] * startup["failureThreshold"] == 86_400
        )  # an outage of the table restarts no pod
        assert manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
        spread = {constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]}
        assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        (user,) = layout.instruction("gateway", "USER")
        assert pod["securityContext"]["runAsUser"] == int(user)
        pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["terminationGracePeriodSeconds"] > pause + self.patience()
        environ = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        for name in environ:
            assert name in self.read_by_the_code() or name == "GATEWAY_STORAGE__tableServiceUri", name
        storage = config_environment.load_storage(environ)
        assert storage.table_service_uri == environ["GATEWAY_STORAGE__tableServiceUri"]
        kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
        (generated,) = kustomization["configMapGenerator"]
        assert pod["volumes"][0]["configMap"]["name"] == generated["name"]
        mount, waiting = container["volumeMounts"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert (waiting["name"], waiting["mountPath"]) == (pod["volumes"][1]["name"], WRITABLE)
        assert environ["GATEWAY_CONFIG"] == f"{mount['mountPath']}/{generated['files'][0]}"
        assert [(image["name"], image["newTag"]) for image in kustomization["images"]] == [
            (container["image"], __version__),
        ]


def test_the_devcontainer_has_the_projects_python_and_node() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    about = json.loads(re.sub(r"^//.*$", "", text, flags=re.M))
    assert f":{(ROOT / '.python-version').read_text().strip()}-" in about["image"]
    node = about["features"]["ghcr.io/devcontainers/features/node:1"]["version"]
    assert json.loads((ROOT / "local" / "package.json").read_text())["engines"]["node"] == f">={node}"
    assert re.fullmatch(r"make [a-z-]+", about["postCreateCommand"])


def test_no_python_of_the_layouts_is_the_virtual_environments() -> None:
    assert sys.executable != layout.PYTHON
