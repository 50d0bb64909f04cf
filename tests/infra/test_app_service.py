"""deploy/app-service: the image, the template and the gateway agree. test_compiler.py compiles the template."""

import re

import pytest

from shared.config import environment
from shared.errors import ConfigurationError
from tests.infra import layout
from tests.infra.snapshots import ROOT

TEMPLATE = ROOT / "deploy/app-service/main.bicep"
SETTINGS = dict(re.findall(r"^    (\w+): (.+)$", TEMPLATE.read_text().partition("name: 'appsettings'")[2], re.M))
OF_THE_PLATFORM = {name for name in SETTINGS if name.startswith("WEBSITE")}


def test_the_platform_asks_the_port_that_the_image_serves_at_a_path_that_is_open() -> None:
    assert [SETTINGS["WEBSITES_PORT"].strip("'")] == layout.instruction("gateway", "EXPOSE")
    assert "healthCheckPath: '/healthz'" in TEMPLATE.read_text()
    assert SETTINGS["WEBSITE_WARMUP_PATH"] == "'/healthz'"


def test_the_platform_waits_until_open_streams_have_ended() -> None:
    serve = layout.instruction("gateway", "CMD")
    drains = int(serve[serve.index("--timeout-graceful-shutdown") + 1])
    assert drains < int(SETTINGS["WEBSITES_CONTAINER_STOP_TIME_LIMIT"].strip("'"))


def test_the_gateway_reads_all_of_its_settings_and_starts_with_them() -> None:
    source = (ROOT / "shared/config/environment.py").read_text() + (
        ROOT / "shared/telemetry/_destinations.py"
    ).read_text()
    for name in SETTINGS.keys() - OF_THE_PLATFORM:
        assert name.partition("__")[0] in source or name == "APPLICATIONINSIGHTS_AUTHENTICATION_STRING"
    backend = '{"name": "a", "endpoint": "https://a.openai.azure.com", "region": "r", "models": {"m": "m"}}'
    values = {
        "configuration": f'{{"backends": [{backend}], "client_address": {{"header": "x-forwarded-for"}}}}',
        "managementKey": "0123456789abcdef0123456789abcdef",
        "tableServiceUri": "https://a.table.core.windows.net",
        "telemetryConnectionString": "",
    }
    environ = {name: values.get(value, "client-id") for name, value in SETTINGS.items()}
    settings = environment.load(environ)
    assert settings.storage.table_service_uri == values["tableServiceUri"]
    assert settings.configuration.client_address.header == "x-forwarded-for"
    with pytest.raises(ConfigurationError):
        environment.load(environ | {"GATEWAY_CONFIG": "{}"})
