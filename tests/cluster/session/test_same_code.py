"""A worker that runs other code than the driver is refused, with both sides named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray

import cluster.actors.pool
import cluster.ranks.ray_backend
from cluster.actors.pool import ActorPool, PoolError
from cluster.ray_runtime import RayRuntime
from cluster.session import same_code
from cluster.session.same_code import PACKAGES, CodeIdentity, OtherCodeError, own_identity, require_same, source_digest
from cluster.training.fit_files import RankError
from tests.cluster.tiny import TinyFit, TinyReduce, instance_of
from wsss.contract.runtime import RuntimeSettings

ROOT = Path(__file__).parents[3]
DRIVER = CodeIdentity("head", "/opt/a", {"source digest": "aa", "python": "3.11", "torch": "2.15.0"})


def copied(folder: Path) -> Path:
    """A copy of the packages' sources."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.toml"))
    return folder


def test_equal_sides_pass_and_a_difference_names_both() -> None:
    require_same(DRIVER, who="actor 1", driver=DRIVER)
    other = CodeIdentity("w2", "/opt/b", {"source digest": "bb", "python": "3.11"})
    with pytest.raises(OtherCodeError) as caught:
        require_same(other, who="actor 1", driver=DRIVER)
    text = str(caught.value)
    assert "actor 1 on w2 (/opt/b) runs other code than the driver on head (/opt/a)" in text
    assert "source digest aa (driver) and bb (worker)" in text and "python" not in text
    assert "torch 2.15.0 (driver) and not installed (worker)" in text


def test_the_digest_sees_every_source_and_no_cache(tmp_path: Path) -> None:
    root = copied(tmp_path / "copy")
    before = source_digest(root)
    assert before == source_digest(ROOT) == own_identity().values["source digest"]
    (root / "wsss" / "__pycache__").mkdir(exist_ok=True)
    (root / "wsss" / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert source_digest(root) == before
    with (root / "shards" / "codec.py").open("a") as file:
        file.write("\n")
    changed = source_digest(root)
    assert changed != before
    (root / "shards" / "codec.py").rename(root / "shards" / "codex.py")
    assert source_digest(root) not in (before, changed)


def test_the_identity_is_found_without_importing_torch() -> None:
    code = "import sys; from cluster.session.same_code import own_identity; own_identity()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


class OnOtherCode:
    """An actor that states what a node with a changed file would state."""

    def __init__(self, root: str) -> None:
        found = replace(own_identity(), host="w2", folder=root)
        values = found.values | {"source digest": source_digest(Path(root))}
        cluster.actors.pool.own_identity = lambda: replace(found, values=values)  # type: ignore[assignment]

    def work(self, shard: str) -> str:
        raise AssertionError("no shard may be given to it")


@pytest.mark.ray
@pytest.mark.extended
def test_map_actors_reduce_workers_and_ranks_with_other_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(tmp_path / "copy")
    with (root / "shards" / "codec.py").open("a") as file:
        file.write("\n")
    runtime = RayRuntime(RuntimeSettings(num_actors=1), address=None)
    try:
        made = ray.remote(OnOtherCode).options(num_cpus=0.5, max_restarts=0)
        pool = ActorPool(lambda: made.remote(str(root)), size=1, start_seconds=60)
        with pytest.raises(PoolError, match=rf"actor 1 on w2 \({root}\) runs other code than .* source digest"):
            pool.run(["a"], submit=lambda actor, task: actor.work.remote(task.shard), done=lambda *_: None)
        pool.close()
        # The driver's side differs below: workers and ranks of the real runtime are then the others.
        mine = replace(own_identity(), values=own_identity().values | {"torch": "1.0"})
        monkeypatch.setattr("cluster.ranks.ray_fit.own_identity", lambda: mine)
        monkeypatch.setattr(same_code, "own_identity", lambda: mine)
        with pytest.raises(PoolError, match=r"torch 1\.0 \(driver\)"):
            runtime.reduce(instance_of(TinyReduce(), tmp_path / "r"), TinyReduce(), lambda *_: None)
        stage = TinyFit(batch_size=4, num_epochs=1)
        with pytest.raises(RankError, match=r"rank 0 on .* runs other code than the driver.* torch 1\.0 \(driver\)"):
            runtime.fit(instance_of(stage, tmp_path / "f"), stage, lambda *_: None)
        assert not (tmp_path / "f" / "starts.txt").exists(), "no rank had begun"
    finally:
        runtime.close()
