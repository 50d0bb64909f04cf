"""One caller's doing is no fault of the backends, which others use as well."""

from tests.harness.system import System, chat_body

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
