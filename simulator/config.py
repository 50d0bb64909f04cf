"""Configuration: regions, deployments and limits, from a JSON file or the defaults."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from .errors import DECODE_FAILURES
from .models import Kind

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
Limit = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class InvalidConfig(Exception):
    """Invalid configuration. The message has the key's path and the expected value."""


class DeploymentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kind` defaults to the kind implied by the model's name. Limits are counted over `window_seconds`.

    A provisioned `sku` reports its utilisation instead of x-ratelimit headers. Its `tokens_per_minute` are its
    throughput, and calls over it go to the deployment that `spillover` names, if any.
    """

    name: Name
    model: Name
    kind: Kind | None = None
    sku: Name = "Standard"
    tokens_per_minute: Limit | None = None
    requests_per_minute: Limit | None = None
    window_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    spillover: Name | None = None


DEFAULT_DEPLOYMENTS = tuple(
    DeploymentConfig(name=model, model=model)
    for model in (
        "gpt-5.4", "gpt-5.4-mini", "gpt-5.6-luna", "text-embedding-3-small", "text-embedding-3-large", "gpt-image-2",
        "gpt-4o-mini-tts", "gpt-4o-mini-transcribe", "omni-moderation-latest", "gpt-realtime",
        "gpt-4o", "gpt-4o-mini", "gpt-5-mini", "o1", "o3-mini", "o4-mini", "gpt-4-turbo", "gpt-4-1106-preview",
        "gpt-35-turbo", "gpt-35-turbo-16k", "gpt-35-turbo-instruct", "text-embedding-ada-002", "gpt-image-1",
        "dall-e-3", "tts", "whisper",
    )
)  # fmt: skip


class RegionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`port` 0 selects a free port. `display` is the value of the header x-ms-region. `api` other than
    `azure`: it plays OpenAI or Anthropic itself, whose deployments are their models."""

    name: Name
    api: Literal["azure", "openai", "anthropic"] = "azure"
    display: str | None = None
    port: Port = 0
    deployments: tuple[DeploymentConfig, ...] = DEFAULT_DEPLOYMENTS
    first_token_seconds: Seconds = 0.0
    seconds_per_chunk: Seconds = 0.0


DEFAULT_REGIONS = (
    RegionConfig(name="swedencentral", display="Sweden Central"),
    RegionConfig(name="eastus2", display="East US 2"),
    RegionConfig(name="japaneast", display="Japan East"),
)


class SimulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without an `api_key`, every start generates one."""

    regions: Annotated[tuple[RegionConfig, ...], msgspec.Meta(min_length=1)] = DEFAULT_REGIONS
    api_key: Annotated[str, msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: secrets.token_hex(16))


def load_config(path: Path | None) -> SimulatorConfig:
    """Raises InvalidConfig if the file is unreadable or not JSON, has unknown keys or repeats a name."""
    if path is None:
        return SimulatorConfig()
    try:
        config = msgspec.json.decode(path.read_bytes(), type=SimulatorConfig)
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    except DECODE_FAILURES as error:
        raise InvalidConfig(f"{path}: {error}") from error
    _refuse_duplicates(path, "region", [region.name for region in config.regions])
    for region in config.regions:
        names = [deployment.name for deployment in region.deployments]
        _refuse_duplicates(path, f"deployment in {region.name}", names)
        for deployment in region.deployments:
            _check(path, deployment, names)
    return config


def with_ports(config: SimulatorConfig, ports: list[int]) -> SimulatorConfig:
    """The configuration with one port per region, in order."""
    if len(ports) != len(config.regions):
        raise InvalidConfig(f"--ports names {len(ports)} ports for {len(config.regions)} regions")
    pairs = zip(config.regions, ports, strict=True)
    regions = tuple(msgspec.structs.replace(region, port=port) for region, port in pairs)
    return msgspec.structs.replace(config, regions=regions)


def _check(path: Path, deployment: DeploymentConfig, names: list[str]) -> None:
    provisioned = "provisioned" in deployment.sku.lower()
    if provisioned and deployment.requests_per_minute is not None:
        raise InvalidConfig(f"{path}: {deployment.name} is provisioned and cannot have requests_per_minute")
    if deployment.spillover is not None and (deployment.spillover not in names or not provisioned):
        raise InvalidConfig(f"{path}: {deployment.name} cannot spill over to {deployment.spillover}")


def _refuse_duplicates(path: Path, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidConfig(f"{path}: duplicate {what}: {name!r}")
