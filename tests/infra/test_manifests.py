"""The manifests for Kubernetes against the published schemas, without a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import ValidationError, latest_version, validate

from shared.config.document import Timeouts
from tests.infra.snapshots import ROOT

DEPLOY = ROOT / "deploy"
VERSIONS = ("1.31", latest_version())
MANIFESTS = [path for path in sorted(DEPLOY.glob("*/*.yaml")) if "apiVersion" in path.read_text()]
NOT_KUBERNETES = {"kustomize.config.k8s.io/v1beta1", "route.openshift.io/v1"}


def documents(path: Path) -> list[dict[str, Any]]:
    """The resources in a manifest."""
    return [d for d in yaml.safe_load_all(path.read_text()) if d["apiVersion"] not in NOT_KUBERNETES]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_holds_to_the_schema(path: Path, version: str) -> None:
    for document in documents(path):
        validate(document, version, strict=True)


def test_a_mistyped_key_is_no_manifest() -> None:
    (document,) = documents(DEPLOY / "kubernetes" / "service.yaml")
    document["spec"]["prots"] = document["spec"].pop("ports")
    with pytest.raises(ValidationError):
        validate(document, VERSIONS[-1], strict=True)


def test_what_is_in_front_passes_streams_on_for_as_long_as_they_last() -> None:
    (ingress,) = documents(DEPLOY / "ingress" / "ingress.yaml")
    given = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert (given["proxy-buffering"], given["proxy-request-buffering"]) == ("off", "off")
    assert int(given["proxy-read-timeout"]) >= Timeouts().stream > 230
    route = yaml.safe_load((DEPLOY / "openshift" / "route.yaml").read_text())
    timeout = route["metadata"]["annotations"]["haproxy.router.openshift.io/timeout"]
    assert int(timeout.removesuffix("s")) >= Timeouts().stream
    (service,) = documents(DEPLOY / "kubernetes" / "service.yaml")
    names = {port["name"] for port in service["spec"]["ports"]}
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
    assert {"http", route["spec"]["port"]["targetPort"]} == names
