"""A cluster of separate hosts from `ray up` to its end: `make test-cluster`. The tests need this order."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.host_faults import head_killed, host_cut_off
from tests.faults.worker_faults import actor_killed, rank_killed
from tests.hosts.knock import ALLOWED, open_ports, strangers_see
from tests.hosts.runs import RECIPE, Runs, differences
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


def test_a_killed_actor_is_replaced(bench: Bench) -> None:
    actor_killed(bench)


def test_a_training_resumes_after_a_rank_is_killed(bench: Bench) -> None:
    rank_killed(bench)


def test_a_layer_is_finished_without_a_host_that_is_cut_off(bench: Bench) -> None:
    host_cut_off(bench)


def test_a_job_resumes_after_the_head_was_killed(bench: Bench) -> None:
    head_killed(bench)


@pytest.mark.parametrize("name", ["head", "w1"])
def test_only_ssh_answers_a_stranger(bench: Bench, name: str) -> None:
    host = bench.cluster.lab.hosts[name]
    ports = open_ports(bench.cluster.laptop, host.address)
    assert 22 in ports, "the host can be reached"
    unexpected = [port for port in ports if not ALLOWED.allows(port)]
    assert not unexpected, f"open, but not in the cluster file: {unexpected}"
    answers = strangers_see(bench.cluster.laptop, host.address, [port for port in ports if port != 22])
    assert not answers, "\n".join(answers)


def test_the_cluster_ends(bench: Bench) -> None:
    bench.cluster.down()
    for host in (bench.cluster.head, *bench.hosts):
        assert not host.find("/raylet/raylet "), host.name
        assert not host.find("/gcs/gcs_server "), host.name
