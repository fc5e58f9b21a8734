"""A cluster of separate hosts from `ray up` to its end: `make test-cluster`. The tests need this order."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.host_faults import head_killed, host_cut_off
from tests.faults.worker_faults import actor_killed, rank_killed
from tests.hosts.knock import ALLOWED, open_ports, strangers_see
from tests.hosts.mlflow_from_outside import mlflow_tunnel
from tests.hosts.runs import RECIPE, Runs, differences, wait_until
from tests.hosts.work import RANK, workers

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]


def test_hosts_are_named_as_debian_does(bench: Bench) -> None:
    for host in bench.hosts:
        assert host.run(f"getent hosts {host.name}").split() == ["127.0.1.1", host.name]


def test_every_address_of_the_file_is_a_node(bench: Bench) -> None:
    assert bench.cluster.num_alive() == 1 + len(bench.hosts)


def test_without_the_token_nothing_is_submitted(bench: Bench) -> None:
    for token in ("", "0" * 64):
        status, _ = bench.cluster.dashboard.request("POST", "/api/jobs/", {"entrypoint": "true"}, token=token)
        assert status in (401, 403)


def test_a_job_from_the_laptop_has_a_rank_on_each_host_and_the_bytes_of_a_local_run(bench: Bench) -> None:
    runs = Runs(bench.cluster.lab.shared, "whole")
    settings = f"--set runtime.runs={runs.inside} --set runtime.placement=STRICT_SPREAD --set runtime.num_actors=2"
    command = (
        f"ray job submit --no-wait --submission-id whole --working-dir . -- wsss run {RECIPE} --on auto {settings}"
    )
    bench.cluster.on_laptop(f"RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 {command}")
    job = bench.cluster.job("whole")
    runs.wait_for_step(1, job=job)
    assert sorted(rank.host.name for rank in workers(bench.hosts, RANK)) == ["w1", "w2"]
    job.succeeds(timeout=400)
    assert not differences(runs.folder, bench.reference.wait())


def test_mlflow_is_opened_from_the_laptop_and_two_submissions_are_compared(bench: Bench) -> None:
    runs = Runs(bench.cluster.lab.shared, "whole")
    command = bench.command(runs, "predict.scales=[1.0]", first="predict", last="submit")
    bench.cluster.submit(command, name="other-scales").succeeds(timeout=300)
    with mlflow_tunnel(bench.cluster) as mlflow:
        known = mlflow.runs()
        assert sum(run.tags["wsss.kind"] == "pipeline" for run in known) == 2
        ours = [run for run in known if run.name == "evaluate" and run.status == "FINISHED"]
        assert len(ours) == 2, "one evaluation of each submission"
        assert len({run.tags["wsss.fingerprint"] for run in ours}) == 2
        server = f"--tracking-uri http://127.0.0.1:{mlflow.port}"
        # The laptop has no label maps of them, only what MLflow recorded.
        words = f"wsss compare --recorded {ours[0].run_id} {ours[1].run_id} {server} --csv"
        table = bench.cluster.on_laptop(words).splitlines()
        assert sum(line.startswith(("walker,", "wheel,", "crate,", "fin,", "bloom,")) for line in table) == 5, table
        assert any(mlflow.artifacts(run) for run in known), "artifacts are served from the shared folder"


def test_mlflow_is_restarted(bench: Bench) -> None:
    head = bench.cluster.head
    with mlflow_tunnel(bench.cluster) as mlflow:
        before = len(mlflow.runs())
        killed = [*head.find("-m mlflow server"), *head.find("uvicorn", "mlflow")]
        assert len(killed) == 2, "the process that starts it, and the one that answers"
        for process in killed:
            head.kill(process)
        wait_until(lambda: bool(mlflow.answers()), "MLflow again", timeout=120, pause=0.5)
        assert len(mlflow.runs()) == before
    assert sum("mlflow_server" in process.command for process in head.processes()) == 1


def test_a_killed_actor_is_replaced(bench: Bench) -> None:
    actor_killed(bench)


def test_a_training_resumes_after_a_rank_is_killed(bench: Bench) -> None:
    rank_killed(bench)


def test_a_layer_is_finished_without_a_host_that_is_cut_off(bench: Bench) -> None:
    host_cut_off(bench)


def test_a_job_resumes_after_the_head_was_lost_and_mlflow_has_its_records(bench: Bench) -> None:
    with mlflow_tunnel(bench.cluster) as mlflow:
        before = {run.run_id for run in mlflow.runs() if run.status == "FINISHED"}
    assert before
    head_killed(bench)
    with mlflow_tunnel(bench.cluster) as mlflow:
        assert before <= {run.run_id for run in mlflow.runs()}


@pytest.mark.parametrize("name", ["head", "w1"])
def test_only_ssh_answers_a_stranger(bench: Bench, name: str) -> None:
    host = bench.cluster.lab.hosts[name]
    ports = open_ports(bench.cluster.laptop, host.address)
    assert 22 in ports, "the host can be reached"
    unexpected = [port for port in ports if not ALLOWED.allows(port)]
    assert not unexpected, f"open, but not in the cluster file: {unexpected}"
    answers = strangers_see(bench.cluster.laptop, host.address, [port for port in ports if port != 22])
    assert not answers, "\n".join(answers)
