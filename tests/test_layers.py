"""The walls of the house: who may import what, and what a start may not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AZURE_ROOMS = {
    *("function_app.py", "shared/credentials.py", "shared/telemetry/_destinations.py"),
    *("shared/storage/blobs.py", "shared/storage/connection_string.py", "shared/storage/_account_tables.py"),
    *("shared/cli/_azure_monitor.py", "shared/functions_http.py"),
}
WIRE = ("azure_openai", "anthropic")
PURE = (
    *(f"{room}/{path.stem}" for room in WIRE for path in sorted((ROOT / "shared" / room).glob("*.py"))),
    "telemetry/_sampling",
    "telemetry/metrics",
    "telemetry/spans",
    "limits/_amounts",
    "limits/_holding",
    "limits/_token_bucket",
    "limits/_demand",
    "limits/estimation",
    "routing/breakers",
    "routing/deployments",
    "routing/explanation",
    "routing/_groups",
    "routing/_health",
    "routing/_models",
    "routing/_ordering",
    "routing/quota",
    "routing/rendezvous",
    "routing/silence",
    "forwarding/_timeouts",
    "alerts/_payloads",
    "config/limits",
    "config/prices",
    "auth/keys",
    "auth/_jwt",
    "auth/_presented",
    "auth/caller_rules",
    "token_classes",
    "types",
    "errors",
)
# Lowest first. A package imports only lower ones; the middle is the order of a request.
LAYERS = (
    *("__version__", "errors", "ulid", "concurrency", "http_client", "token_classes"),  # the ground
    *("config", "types", "credentials", "storage", "alerts", "versions"),
    *(
        "azure_openai",
        "anthropic",
        "auth",
        "usage",
        "billing",
        "limits",
        "telemetry",
        "lifecycle",
    ),  # what the stages are made of
    *("requests", "routing", "affinity", "forwarding", "settlement", "responses"),  # parse, route, forward, respond
    *("management", "accounting", "gateway", "sockets", "process", "bootstrap"),
    *("edges", "asgi", "functions_http", "cli"),
)
IO = {"aiohttp", "asyncio", "socket", "os", "subprocess", "logging", "time", "datetime"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in [ROOT / "function_app.py", *sorted((ROOT / "shared").rglob("*.py"))]:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def own_imports() -> Iterator[tuple[str, str, list[str]]]:
    """(importing file, its layer, parts of the imported module below `shared`)"""
    for name, tree in modules():
        layer = name.removeprefix("shared/").split("/")[0].removesuffix(".py")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shared":
                for alias in node.names:
                    dotted = f"{node.module}.{alias.name}" if node.module == "shared" else str(node.module)
                    yield name, layer, dotted.split(".")[1:]


def test_a_package_imports_only_lower_ones() -> None:
    crossings = 0
    for name, layer, (target, *_) in own_imports():
        if target != layer and name != "function_app.py":
            assert LAYERS.index(target) < LAYERS.index(layer), f"{name} imports {target}"
            crossings += 1
    assert crossings > 100  # the walk sees something


def test_nobody_imports_the_insides_of_another_package() -> None:
    for name, layer, (target, *rest) in own_imports():
        assert target == layer or not any(part.startswith("_") for part in rest), f"{name} imports {target}.{rest}"


def test_the_init_of_a_package_holds_no_code() -> None:
    for name, tree in modules():
        if name.endswith("__init__.py") and name != "shared/storage/__init__.py":  # which holds the Protocols
            assert len(tree.body) == (2 if name == "shared/__init__.py" else 1), name  # which holds the version, too
            assert ast.get_docstring(tree), name


def test_tests_import_benchmarks_only_to_run_them_end_to_end() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if path.parent.name != "end_to_end":
            assert not any(i.split(".")[0] == "bench" for i in imports(ast.parse(path.read_text()))), path


def test_azure_lives_in_few_rooms() -> None:
    importers = {name for name, tree in modules() if any(i.split(".")[0].startswith("azure") for i in imports(tree))}
    assert importers <= AZURE_ROOMS
    assert "shared/storage/blobs.py" in importers  # the walk sees something


@pytest.mark.parametrize("name", PURE)
def test_what_decides_does_no_io_and_reads_no_clock(name: str) -> None:
    tree = ast.parse((ROOT / "shared" / f"{name}.py").read_text())
    assert not {i.split(".")[0] for i in imports(tree)} & IO


def test_the_environment_is_read_in_one_place() -> None:
    readers = {name for name, tree in modules() for node in ast.walk(tree) if _reads_environment(node)}
    # credentials.py looks for the platform's managed identity; _destinations.py and _tokenizer_process.py set what a
    # library reads there; edges and commands pass the whole on
    assert readers <= {
        "shared/config/environment.py",
        "shared/credentials.py",
        "shared/telemetry/_destinations.py",
        "shared/usage/_tokenizer_process.py",
        "shared/asgi.py",
        "shared/cli/_terminal.py",
        "function_app.py",
    }


def _reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")


@pytest.mark.parametrize("module", ["shared.asgi", "function_app"])
def test_a_start_imports_no_heavy_package_that_no_request_needs(module: str) -> None:
    heavy = ["openai", "azure.identity", "azure.monitor", "msal", "typer", "rich", "azure.data.tables", "tiktoken"]
    heavy += [
        "opentelemetry",
        "requests",
        "google.protobuf",
        "psutil",
        "azure.core",
        "azure.storage",
        "cryptography",
        "jwt",
    ]
    heavy += ["fastapi", "pydantic", "httpx2", "aiohttp.web", "uvloop", "xml.etree", "sqlite3"]
    program = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    environ = {"GATEWAY_CONFIG": (ROOT / "gateway.sample.yaml").read_text(), "EASTUS_KEY": "x", "GATEWAY_STORAGE": "x"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == []


def test_a_command_starts_without_the_clients_that_it_does_not_use() -> None:
    program = (
        "import sys, shared.cli.app; print(*[name for name in ('openai', 'pydantic', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode().split()) == (0, []), done.stderr.decode()
