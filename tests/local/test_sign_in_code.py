"""The link of `make run`: its code signs in once, in time, and nowhere else."""

import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from local import sign_in_code
from local.gateway import PATH, SignInLink
from shared import asgi
from tests.harness.system import System

KEY = "a management key of the test: 0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "code"


@pytest.fixture
def client(file: Path) -> TestClient:
    return TestClient(SignInLink(asgi.app, {sign_in_code.FILE: str(file), "GATEWAY_MANAGEMENT_KEY": KEY}))


def test_a_code_gives_the_key_once(client: TestClient, file: Path) -> None:
    code = sign_in_code.make(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert code not in file.read_text()
    wrongs: tuple[object, ...] = ({"code": code[:-1]}, {"code": ""}, {}, [], {"code": 1}, "x" * 2000)
    for wrong in wrongs:
        assert client.post(PATH, json=wrong).status_code == 401
    assert client.get(PATH).status_code == 405
    answer = client.post(PATH, json={"code": code})
    assert (answer.status_code, answer.json()) == (200, {"key": KEY})
    again = client.post(PATH, json={"code": code})
    assert (again.status_code, again.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_code_is_over_after_its_time_and_with_the_next_run(client: TestClient, file: Path) -> None:
    old = sign_in_code.make(file)
    new = sign_in_code.make(file)
    assert client.post(PATH, json={"code": old}).status_code == 401
    kept = json.loads(file.read_text())
    assert kept["until"] <= time.time() + sign_in_code.MINUTES * 60
    file.write_text(json.dumps(kept | {"until": time.time() - 1}))
    assert client.post(PATH, json={"code": new}).status_code == 401


def test_a_run_under_way_gets_new_links(client: TestClient, file: Path, tmp_path: Path) -> None:
    assert sign_in_code.link(tmp_path) == ""
    environment = tmp_path / "env"
    environment.write_text("unset OPENAI_BASE_URL\nexport GATEWAY_URL=http://127.0.0.1:7071\nexport A='b\nc=d'\n")
    assert sign_in_code.link(tmp_path) == ""  # of a run under the Functions host
    with environment.open("a") as written:
        written.write(f"export {sign_in_code.FILE}={file}\n")
    old, new = sign_in_code.link(tmp_path), sign_in_code.link(tmp_path)
    page, _, code = new.partition("#sign-in=")
    assert page == "http://127.0.0.1:7071/gateway/"
    assert client.post(PATH, json={"code": old.partition("=")[2]}).status_code == 401
    assert client.post(PATH, json={"code": code}).json() == {"key": KEY}


def test_of_many_who_try_at_a_time_one_signs_in(file: Path) -> None:
    for _ in range(20):
        code = sign_in_code.make(file)
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(lambda _, code=code: sign_in_code.claim(file, code), range(16))) == 1


def test_a_gateway_that_is_not_of_a_local_run_has_no_such_path(gateway: System) -> None:
    refused = gateway.post(PATH, {"code": "x"})
    assert (refused.status, refused.error()["code"]) == (401, "invalid_api_key")  # as any path that there is not
    assert gateway.manage("POST", PATH, {"code": "x"}).status == 404
    words = ("sign-in/code", "sign_in_code", "TOLLGATE_LOCAL")
    shared = Path(asgi.__file__).parent
    texts = [path.read_text() for path in (*shared.rglob("*.py"), shared.parent / "function_app.py")]
    assert [word for word in words if any(word in text for text in texts)] == []
