"""The configuration of each agent: the gateway's address, and no other host."""

import json
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from tests.harness.gateway_process import ROOT

PROMPT = "Say hello"
MODEL, SMALL_MODEL = "gpt-4o", "gpt-4o-mini"
CLAUDE, SMALL_CLAUDE = "claude-sonnet-5-5", "claude-haiku-5-5"
_NODE = ROOT / "tests/agents/node_modules/.bin"
_AIDER = ROOT / ".local/aider/bin/aider"


class Place(msgspec.Struct, frozen=True):
    """The place where an agent runs. `outside`: the address of the proxy that refuses every other host."""

    gateway: str
    key: str
    home: Path
    outside: str

    def write(self, path: str, text: str) -> Path:
        """A file below the home of the agent."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


class Start(msgspec.Struct, frozen=True):
    """A command, its environment beside the usual, and a command that comes first."""

    words: list[str]
    environment: Mapping[str, str]
    before: list[str] = []


def codex(at: Place, *, websockets: bool = False, key_from_command: bool = False) -> Start:
    """With `key_from_command` it also asks for the models."""
    provider = [f'name = "gateway"\nbase_url = "{at.gateway}/v1"\nwire_api = "responses"']
    if websockets:
        provider.append("supports_websockets = true")
    if key_from_command:
        command = at.write("key.sh", f"#!/bin/sh\nprintf %s {shlex.quote(at.key)}\n")
        command.chmod(0o700)
        provider.append(f'[model_providers.gateway.auth]\ncommand = "{command}"')
    else:
        provider.append('env_key = "GATEWAY_KEY"')
    general = f'model = "{MODEL}"\nmodel_provider = "gateway"\ncheck_for_update_on_startup = false'
    switches = "[analytics]\nenabled = false\n[features]\nplugins = false\napps = false"
    at.write(".codex/config.toml", "\n".join((general, switches, "[model_providers.gateway]", *provider)) + "\n")
    words = [f"{_NODE}/codex", "exec", "--skip-git-repo-check", "--sandbox", "read-only"]
    return Start([*words, PROMPT], {} if key_from_command else {"GATEWAY_KEY": at.key})


def copilot(at: Place, *, path: str = "", **provider: str) -> Start:
    settings = {
        "COPILOT_OFFLINE": "true",
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_MODEL": MODEL,
        "COPILOT_PROVIDER_BASE_URL": at.gateway + path,
        "COPILOT_PROVIDER_API_KEY": at.key,
    }
    words = [f"{_NODE}/copilot", "--prompt", PROMPT, "--silent", "--allow-all-tools", "--disable-builtin-mcps"]
    words += ["--reasoning-effort", "none"]  # else it asks for some, which models that do not reason refuse
    return Start(words, settings | {f"COPILOT_PROVIDER_{name.upper()}": value for name, value in provider.items()})


def copilot_with_claude(at: Place) -> Start:
    start = copilot(at, type="anthropic")
    return Start(start.words, {**start.environment, "COPILOT_MODEL": CLAUDE})


def claude_code(at: Place, *, token: bool = False) -> Start:
    """With `token` the key goes into Authorization, else into x-api-key."""
    switches = ("DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING")
    environment = dict.fromkeys((*switches, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), "1")
    names = {"ANTHROPIC_MODEL": CLAUDE, "ANTHROPIC_DEFAULT_HAIKU_MODEL": SMALL_CLAUDE}
    key = {"ANTHROPIC_AUTH_TOKEN" if token else "ANTHROPIC_API_KEY": at.key}
    words = [f"{_NODE}/claude", "--print", PROMPT]
    return Start(words, environment | names | key | {"ANTHROPIC_BASE_URL": at.gateway})


def opencode(at: Place) -> Start:
    options = {"baseURL": f"{at.gateway}/v1", "apiKey": at.key}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {MODEL: {}, SMALL_MODEL: {}}}
    settings = {
        "autoupdate": False,
        "share": "disabled",
        "model": f"gateway/{MODEL}",
        "small_model": f"gateway/{SMALL_MODEL}",
        "enabled_providers": ["gateway"],
        "provider": {"gateway": provider},
    }
    environment = {
        "OPENCODE_CONFIG_CONTENT": json.dumps(settings),
        "OPENCODE_DISABLE_AUTOUPDATE": "true",
        "OPENCODE_DISABLE_MODELS_FETCH": "true",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "true",
        "npm_config_registry": at.outside,
    }
    return Start([f"{_NODE}/opencode", "run", "--pure", PROMPT], environment)


def continue_(at: Place) -> Start:
    model = {"name": MODEL, "provider": "openai", "model": MODEL, "apiBase": f"{at.gateway}/v1", "apiKey": at.key}
    settings = {"name": "gateway", "version": "1.0.0", "schema": "v1", "models": [{**model, "roles": ["chat"]}]}
    file = at.write("config.yaml", json.dumps(settings))  # JSON is YAML
    silent = {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_ENABLE_TELEMETRY": "0"}
    return Start([f"{_NODE}/cn", "--config", str(file), "--print", PROMPT], silent)


def cline(at: Place) -> Start:
    settings = at.write("settings.json", json.dumps({"telemetryOptOut": True, "autoUpdateEnabled": False}))
    program, url = f"{_NODE}/cline", f"{at.gateway}/v1"
    return Start(
        [program, "--timeout", "60", PROMPT],
        # No daemon, which would outlive the command.
        {
            "CLINE_GLOBAL_SETTINGS_PATH": str(settings),
            "CLINE_NO_AUTO_UPDATE": "1",
            "CLINE_SESSION_BACKEND_MODE": "local",
        },
        before=[program, "auth", "--provider", "openai", "--apikey", at.key, "--modelid", MODEL, "--baseurl", url],
    )


def aider(at: Place) -> Start:
    # The prices of models, which it would fetch.
    at.write(".aider/caches/model_prices_and_context_window.json", json.dumps({f"openai/{MODEL}": {}}))
    environment = {
        "OPENAI_API_BASE": f"{at.gateway}/v1",
        "OPENAI_API_KEY": at.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    switches = (
        "no-git no-gitignore no-check-update no-show-release-notes no-show-model-warnings no-detect-urls no-pretty "
        "analytics-disable yes-always"
    )
    words = [str(_AIDER), *(f"--{switch}" for switch in switches.split())]
    return Start([*words, "--map-tokens", "0", "--model", f"openai/{MODEL}", "--message", PROMPT], environment)


AGENTS: dict[str, Callable[[Place], Start]] = {
    "codex": codex,
    "codex-websockets": partial(codex, websockets=True),
    "codex-models": partial(codex, key_from_command=True),
    "copilot-completions": partial(copilot, path="/v1"),
    "copilot-responses": partial(copilot, path="/v1", wire_api="responses"),
    "copilot-websockets": partial(copilot, path="/v1", wire_api="responses", transport="websockets"),
    "copilot-azure": partial(copilot, type="azure"),
    "copilot-azure-dated": partial(copilot, type="azure", azure_api_version="2024-10-21"),
    "copilot-azure-responses": partial(copilot, type="azure", wire_api="responses"),
    "copilot-claude": copilot_with_claude,
    "claude-code": claude_code,
    "claude-code-token": partial(claude_code, token=True),
    "opencode": opencode,
    "continue": continue_,
    "cline": cline,
    "aider": aider,
}

# What an agent asks for although it was told not to.
INSISTS = {"opencode": {"/@opencode-ai%2fplugin"}, "cline": {"data.cline.bot:443"}}
