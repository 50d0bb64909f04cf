"""One caller's doing is no fault of the backends, which others use as well."""

import json
import socket
import time

import pytest

from tests.harness.system import System, chat_body, eventually

CHAT = "/v1/chat/completions"


def test_the_deadline_of_a_caller_is_no_fault_of_a_backend(gateway: System) -> None:
    model = gateway.spare()
    gateway.simulator.fault("delay", deployment=model, seconds=0.3)
    for _ in range(20):
        answer = gateway.post(CHAT, chat_body(model), {"x-request-timeout-ms": "5"})
        assert (answer.status, answer.error()["code"]) == (504, "upstream_timeout")
    backends = gateway.get("/gateway/backends").json()["backends"]
    deployments = [one for backend in backends for one in backend["deployments"] if one["deployment"] == model]
    assert len(deployments) == 3
    assert "ejected" not in {one["state"] for one in deployments}
    assert gateway.chat(model).headers["x-gateway-attempts"] == "1"


# Under the Functions host the connections between caller, host and worker take 4 MB: too much for the smaller answer.
@pytest.mark.parametrize(
    ("edge", "texts"),
    [("uvicorn", 110), ("uvicorn", 1200), ("functions", 1200)],
    indirect=["edge"],
    scope="session",
)
def test_an_answer_that_its_caller_does_not_read_holds_the_slot_of_its_call(gateway: System, texts: int) -> None:
    about = {"name": f"reader {gateway.edge} {texts}", "limits": {"max_concurrent": 1}}
    key = gateway.manage("POST", "/gateway/consumers", about).json()["key"]
    body = json.dumps({"model": "text-embedding-3-small", "input": ["a"] * texts}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    eventually(lambda: gateway.post(CHAT, chat_body(), key=key).status == 200)
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(20)
        caller.connect(gateway.gateway.address)
        caller.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        assert caller.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)
        answer = gateway.post(CHAT, chat_body(), key=key)
        assert (answer.status, answer.error()["code"]) == (429, "rate_limit_exceeded")
    eventually(lambda: gateway.post(CHAT, chat_body(), key=key).status == 200)
    assert 200 in [row.get("e_status") for row in gateway.usage_rows(key) if row.get("s_op") == "embeddings"]
