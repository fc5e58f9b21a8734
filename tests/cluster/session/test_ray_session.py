from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray

from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_local_session_ignores_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a node of a cluster, or one with a leftover session, Ray by itself would join that session."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert connect(None)
    try:
        assert not connect(None), "the open session is used"
        assert ray.cluster_resources()["CPU"] >= 2
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("failures", "message"), [(2, ""), (3, "timed out during startup")])
def test_session_start_is_retried_after_a_timeout(failures: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is Ray's own, raised as a plain Exception."""
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        calls.append(options)
        if len(calls) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    if message:
        with pytest.raises(Exception, match=message):
            connect(None)
    else:
        assert connect(None)
    assert len(calls) == 3


def test_other_failures_of_the_start_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        calls.append(options)
        raise RuntimeError("no space left")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="no space left"):
        connect(None)
    assert len(calls) == 1


def test_the_end_of_a_session_spares_processes_whose_code_only_mentions_ray() -> None:
    """multiprocessing starts its servers with code that quotes sys.path; a Ray worker's has folders of Ray in it."""
    code = "import time; path = ['/venv/ray/thirdparty_files']; time.sleep(60)"
    server = subprocess.Popen([sys.executable, "-c", code])
    of_ray = subprocess.Popen(["ray::IDLE", "60"], executable="/bin/sleep")
    try:
        end_session()
        assert server.poll() is None
        assert of_ray.poll() is not None
    finally:
        for process in (server, of_ray):
            process.kill()
            process.wait()
