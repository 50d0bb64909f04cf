"""A configuration of one's own in front of the simulator: a simulated region for each endpoint."""

import re
from collections.abc import Mapping
from typing import Any

from local.processes import Refused
from shared.config.document import Configuration
from shared.config.environment import Source
from shared.config.parsing import data_of, parse
from shared.errors import ConfigurationError

KEY = "SIMULATED_KEY"  # the variable with the simulator's key, for backends that take no identity


class Simulated:
    """The document at `source`. `Refused` if it is wrong or a blob."""

    def __init__(self, source: Source) -> None:
        if source.url is not None:
            raise Refused("SIMULATE=1 needs a configuration in a file or in GATEWAY_CONFIG itself, not in a blob.")
        try:
            text = source.read()
            self._configuration = parse(text, source.name)
            self._document: Any = data_of(text, source.name)
        except ConfigurationError as error:
            raise Refused(str(error)) from None

    def regions(self) -> list[dict[str, Any]]:
        """The regions of the simulator, one for each endpoint, with the name of the first backend there."""
        return regions_of(self._configuration)

    def document(self, addresses: Mapping[str, str]) -> dict[str, Any]:
        """The document with simulated endpoints, given the address of each region, and without what calls others."""
        names = names_of(self._configuration)
        keyed = {backend.name for backend in self._configuration.backends if backend.api != "azure"}
        backends = [
            {
                **backend,
                "endpoint": addresses[names[backend["endpoint"]]],
                "auth": {"api_key_env": KEY} if backend["name"] in keyed else "managed_identity",
            }
            for backend in self._document["backends"]
        ]
        kept = {name: value for name, value in self._document.items() if name not in ("export", "azure_monitor")}
        return {**without_receivers(kept), "backends": backends}


def names_of(configuration: Configuration) -> dict[str, str]:
    """Endpoint -> the name of its region."""
    names: dict[str, str] = {}
    for backend in configuration.backends:
        names.setdefault(backend.endpoint, backend.name)
    return names


def regions_of(configuration: Configuration) -> list[dict[str, Any]]:
    regions = []
    for endpoint, name in names_of(configuration).items():
        there = [backend for backend in configuration.backends if backend.endpoint == endpoint]
        deployments = {
            deployment: {"name": deployment, "model": re.sub("[^A-Za-z0-9._-]", "-", model)[:64]}
            | ({"sku": "ProvisionedManaged"} if backend.kind == "provisioned" else {})
            | ({"tokens_per_minute": limit} if (limit := backend.tokens_per_minute.get(model)) else {})
            for backend in there
            for model, deployment in backend.deployments.items()
        }
        about = {"name": name, "display": there[0].region, "api": there[0].api}
        regions.append(about | {"deployments": list(deployments.values())})
    return regions


def without_receivers(value: Any) -> Any:
    """The data without whatever names the variable of a secret, such as a webhook: nobody is to hear of a trial."""
    if isinstance(value, list):
        return [without_receivers(item) for item in value if not _has_secret(item)]
    if isinstance(value, dict):
        return {name: without_receivers(item) for name, item in value.items() if not _has_secret(item)}
    return value


def _has_secret(value: Any) -> bool:
    return isinstance(value, dict) and any(name.endswith("_env") for name in value)
