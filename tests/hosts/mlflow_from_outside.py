"""MLflow as a user sees it: through the tunnel of `wsss cluster mlflow` on the laptop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.hosts.dashboard import Dashboard
from tests.hosts.ray_cluster import FILE, TOKEN, RayCluster
from tests.hosts.runs import wait_until

PORT = 5050
"""Not the server's own, so that the tunnel is what answers."""


@dataclass(frozen=True)
class MlflowRun:
    """What a test asks about a run."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]


class Mlflow:
    """MLflow's REST interface at a port of the laptop."""

    port = PORT

    def __init__(self, requests: Dashboard) -> None:
        self._requests = requests

    def answers(self) -> bool:
        return self._requests.request("GET", "/health")[0] == 200

    def runs(self) -> list[MlflowRun]:
        """All runs of the project's experiment."""
        status, text = self._requests.request("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=wsss")
        assert status == 200, text
        body = {"experiment_ids": [json.loads(text)["experiment"]["experiment_id"]], "max_results": 1000}
        status, text = self._requests.request("POST", "/api/2.0/mlflow/runs/search", body)
        assert status == 200, text
        return [_run(one) for one in json.loads(text).get("runs", [])]

    def artifacts(self, run: MlflowRun) -> list[str]:
        """Names of a run's artifacts, as the server finds them."""
        status, text = self._requests.request("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run.run_id}")
        assert status == 200, text
        return [file["path"] for file in json.loads(text).get("files", [])]


def _run(found: dict[str, dict[str, object]]) -> MlflowRun:
    info, tags = found["info"], found["data"].get("tags", [])
    assert isinstance(tags, list)
    named = {tag["key"]: tag["value"] for tag in tags}
    return MlflowRun(str(info["run_id"]), str(info["run_name"]), str(info["status"]), named)


@contextmanager
def mlflow_tunnel(cluster: RayCluster) -> Iterator[Mlflow]:
    """`wsss cluster mlflow`, until the block ends."""
    command = f"cd ~/wsss; {TOKEN}; exec wsss cluster mlflow {FILE} --port {PORT}"
    log = cluster.lab.folder / "mlflow_tunnel.log"
    tunnel: subprocess.Popen[bytes] = cluster.laptop.background(command, log=log)
    requests = Dashboard(cluster.laptop, port=PORT)
    mlflow = Mlflow(requests)
    try:
        wait_until(mlflow.answers, f"MLflow through the tunnel: {log.read_text()[-1000:]}", timeout=120, pause=0.5)
        yield mlflow
    finally:
        for process in [*cluster.laptop.find("cluster mlflow"), *cluster.laptop.find(f"{PORT}:")]:
            with suppress(ProcessLookupError):
                cluster.laptop.kill(process)
        for process in cluster.laptop.find("dashboard", f"--port {PORT}"):
            with suppress(ProcessLookupError):
                cluster.laptop.kill(process)
        tunnel.wait()
        requests.close()
