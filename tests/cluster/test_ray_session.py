from __future__ import annotations

import pytest
import ray

from cluster.ray_session import connect

pytestmark = pytest.mark.ray


def test_session_on_this_machine_is_its_own_where_ray_knows_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a cluster, or one where a session was left behind: Ray by itself would join that one."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert connect(None)
    try:
        assert not connect(None), "the open session is used"
        assert ray.cluster_resources()["CPU"] >= 2
    finally:
        ray.shutdown()
