"""`make bench-files`: uploads and downloads a file of 400 MB and reports the gateway's memory."""

import hashlib
import http.client
import json
import sys
import threading
import time

import psutil

from simulator.process import SimulatorProcess
from tests.harness.azurite import azurite
from tests.harness.gateway_process import GatewayProcess
from tests.harness.system import configuration, simulated_regions, system

_PIECE = bytes(range(256)) * 4096


def main(megabytes: int) -> None:
    with (
        azurite() as tables,
        SimulatorProcess(simulated_regions()) as simulator,
        system("uvicorn", configuration(simulator), simulator, tables.connection_string) as running,
    ):
        assert running.chat().status == 200
        watch = _Watch(running.gateway.pid)
        started = time.monotonic()
        file_id, sent = _upload(running.gateway, running.key, megabytes)
        uploaded = time.monotonic()
        received = _download(running.gateway, running.key, file_id)
        took = time.monotonic() - uploaded
        peak = watch.stop()
    print(f"{megabytes} MB: upload {uploaded - started:.1f} s, download {took:.1f} s, same: {sent == received}")
    print(f"the gateway's memory: {watch.first / 1e6:.0f} MB before, {peak / 1e6:.0f} MB at its peak")
    if sent != received or peak > 120e6:
        raise SystemExit("the file differs, or the gateway used more than 120 MB")


class _Watch(threading.Thread):
    """Records the peak memory of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.first = self._peak = self._process.memory_info().rss
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self._peak


def _upload(gateway: GatewayProcess, key: str, megabytes: int) -> tuple[str, str]:
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    )
    digest = hashlib.sha256()
    connection = http.client.HTTPConnection(*gateway.address, timeout=600)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("authorization", f"Bearer {key}")
    connection.putheader("content-type", "multipart/form-data; boundary=b")
    connection.putheader("content-length", str(len(head) + megabytes * len(_PIECE) + 9))
    connection.endheaders(head)
    for _ in range(megabytes):
        digest.update(_PIECE)
        connection.send(_PIECE)
    connection.send(b"\r\n--b--\r\n")
    answer = connection.getresponse()
    file = json.loads(answer.read())
    assert answer.status == 200, file
    return file["id"], digest.hexdigest()


def _download(gateway: GatewayProcess, key: str, file_id: str) -> str:
    digest = hashlib.sha256()
    connection = http.client.HTTPConnection(*gateway.address, timeout=600)
    connection.request("GET", f"/v1/files/{file_id}/content", headers={"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    assert answer.status == 200
    while piece := answer.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
