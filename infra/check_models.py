"""Compares the models of `accounts` with what Azure offers in their regions, before azd creates anything.

python infra/check_models.py     azd runs it (azure.yaml). It needs the Azure CLI, signed in; exit code 1: not offered
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PARAMETERS = Path(__file__).parent / "bicep" / "main.bicepparam"
CURRENT = ("GenerallyAvailable", "Preview")


class NoAnswer(Exception):
    """The Azure CLI's message."""


def ask(*words: str) -> Any:
    """The JSON that an `az` command prints. Raises `NoAnswer`."""
    program = shutil.which("az")
    if program is None:
        raise NoAnswer("the Azure CLI (az) was not found")
    done = subprocess.run([program, *words], capture_output=True, text=True)
    if done.returncode:
        raise NoAnswer(done.stderr.strip() or f"az {' '.join(words)}: exit code {done.returncode}")
    return json.loads(done.stdout)


def offers(models: Sequence[dict[str, Any]], sku: str, maker: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The models of a maker that can be deployed by a SKU, by name and version."""
    listed = (entry["model"] for entry in models if entry["model"].get("format") == maker)
    return {
        (model["name"], model["version"]): model
        for model in listed
        if any(offered["name"] == sku for offered in model.get("skus") or ())
    }


def alternatives(offered: dict[tuple[str, str], dict[str, Any]], name: str) -> str:
    """Versions of the model that can be chosen instead, or else models."""
    current = sorted(key for key, model in offered.items() if model.get("lifecycleStatus") in CURRENT)
    same = [key for key in current if key[0] == name]
    return ", ".join(" ".join(key) for key in same or current) or "nothing"


def check(
    deployment: dict[str, Any], models: Sequence[dict[str, Any]], usages: Sequence[dict[str, Any]]
) -> Iterator[tuple[bool, str]]:
    """The problems of a deployment: `True` if Azure would refuse it, and a sentence."""
    name, version, sku = deployment["model"], deployment.get("version"), deployment["sku"]
    offered = offers(models, sku, deployment.get("format") or "OpenAI")
    matches = [m for (n, v), m in offered.items() if n == name and version in (None, v)]
    asked = f"{name} {version}" if version else name
    if not matches:
        yield True, f"{asked} by {sku} is not offered. Choose one of: {alternatives(offered, name)}."
        return
    if all(model.get("lifecycleStatus") not in CURRENT for model in matches):
        yield False, f"{asked} is about to be retired, and new subscriptions may not deploy it."
    usage_names = {s.get("usageName") for model in matches for s in model["skus"] if s["name"] == sku}
    for usage in usages:
        left = usage["limit"] - usage["currentValue"]
        if usage["name"]["value"] in usage_names and left < deployment["capacity"]:
            yield (
                False,
                f"{asked} by {sku} asks for a capacity of {deployment['capacity']}, and {left:g} of {usage['limit']:g} "
                "are left. That is enough if the deployment exists already; otherwise lower it, or ask for quota.",
            )


def main() -> int:
    """0: every model is offered, or it could not be checked."""
    refused = False
    try:
        built = ask("bicep", "build-params", "--file", str(PARAMETERS), "--stdout")
        accounts = json.loads(built["parametersJson"])["parameters"]["accounts"]["value"]
        for account in accounts:
            models = ask("cognitiveservices", "model", "list", "--location", account["region"])
            usages = ask("cognitiveservices", "usage", "list", "--location", account["region"])
            for deployment in account["deployments"]:
                for fatal, sentence in check(deployment, models, usages):
                    refused |= fatal
                    at = f"{account['name']} ({account['region']}), {deployment['name']}"
                    print(f"{'ERROR' if fatal else 'WARNING'}: accounts: {at}: {sentence}", file=sys.stderr)
    except NoAnswer as message:
        print(f"WARNING: the models were not compared with what Azure offers: {message}", file=sys.stderr)
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
