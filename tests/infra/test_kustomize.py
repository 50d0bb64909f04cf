"""The manifests as `kubectl kustomize` renders them."""

import subprocess
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import latest_version, validate

from shared import __version__
from tests.infra.snapshots import ROOT

KINDS = (
    "Namespace ConfigMap ServiceAccount Deployment Service HorizontalPodAutoscaler PodDisruptionBudget NetworkPolicy"
)


def rendered(folder: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", f"deploy/{folder}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize(
    ("folder", "more"), [("kubernetes", set()), ("ingress", {"Ingress"}), ("openshift", {"Route"})]
)
def test_what_is_rendered_holds_to_the_schemas_in_one_namespace(folder: str, more: set[str]) -> None:
    documents = rendered(folder)
    assert documents.keys() == {*KINDS.split(), *more}
    for kind, document in documents.items():
        if kind != "Route":
            validate(document, latest_version(), strict=True)
        assert document["metadata"].get("namespace", "tollgate") == "tollgate"
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"] != "tollgate-config"
    assert pod["containers"][0]["image"].endswith(f"/tollgate:{__version__}")


def test_openshift_chooses_the_user() -> None:
    context = rendered("openshift")["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert "runAsUser" not in context
    assert context["runAsNonRoot"] is True
