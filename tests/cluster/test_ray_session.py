from __future__ import annotations

from typing import Any

import pytest
import ray

from cluster.ray_session import connect

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_session_on_this_machine_is_its_own_where_ray_knows_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a cluster, or one where a session was left behind: Ray by itself would join that one."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert connect(None)
    try:
        assert not connect(None), "the open session is used"
        assert ray.cluster_resources()["CPU"] >= 2
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("failures", "message"), [(2, ""), (3, "timed out during startup")])
def test_session_is_started_again_where_a_busy_machine_was_slow(
    failures: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Ray's own words, of a class that is Exception itself."""
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


def test_other_failures_of_the_start_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        calls.append(options)
        raise RuntimeError("no space left")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="no space left"):
        connect(None)
    assert len(calls) == 1
