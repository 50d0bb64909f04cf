"""A version of the configuration admits callers, but the base document says whose tokens are believed."""

import json
from typing import Any

import pytest

from shared.config import layers
from shared.errors import ConfigurationError

TENANT = "11111111-2222-3333-4444-555555555555"
BACKEND = {"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"m": "m"}}
ENTRA = {"tenants": [TENANT], "audiences": ["api://tollgate", "api://other"]}


def effective(section: dict[str, Any], **below: Any) -> Any:
    base = layers.base(json.dumps({"backends": [BACKEND], **below}), "base")
    return layers.effective(base, {"entra": section}, "version 2").entra


def test_a_version_changes_the_rules_and_may_accept_fewer_audiences() -> None:
    rules = [{"app_role": "Gateway.Call", "models": ["m"]}]
    section = effective({**ENTRA, "audiences": ["api://other"], "callers": rules}, entra=ENTRA)
    assert (section.audiences, section.callers[0].models) == (["api://other"], ["m"])


@pytest.mark.parametrize("name", ["m", "short", "gone"])
def test_a_rule_may_name_whatever_model_callers_may_name(name: str) -> None:
    models = {"m": {"aliases": ["short"]}, "gone": {"replaced_by": {"model": "m", "from": "2026-01-01"}}}
    rules = [{"app_role": "Gateway.Call", "models": [name]}]
    assert effective({**ENTRA, "callers": rules}, entra=ENTRA, models=models).callers[0].models == [name]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"authority": "https://login.example"}, "version 2: entra.authority: expected that of the base document"),
        ({"page_client_id": TENANT}, "version 2: entra.page_client_id: expected that of the base document"),
        ({"tenants": [TENANT, TENANT.replace("1", "2")]}, "version 2: entra.tenants[1]: expected one of the base"),
        ({"audiences": ["api://mine"]}, "version 2: entra.audiences[0]: expected one of the base document's audiences"),
    ],
)
def test_a_version_cannot_have_tokens_believed_that_the_base_document_does_not(
    change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        effective({**ENTRA, **change}, entra=ENTRA)
    assert complaint in str(refused.value)


def test_a_version_cannot_begin_to_accept_tokens() -> None:
    with pytest.raises(ConfigurationError, match="version 2: entra: expected a section of this name in the base"):
        effective(ENTRA)
