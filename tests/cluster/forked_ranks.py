"""Training ranks as forked processes, for tests that start many of them: as `LocalRuntime` runs them, but faster."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from pathlib import Path

from cluster.local import free_port
from cluster.training.engine import run_rank
from cluster.training.fit_files import has_outcome, read_outcome
from cluster.training.rank_process import RankPlace
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.stage import Outcome

SECONDS = 240


def train_forked(path: Path, stage: TinyFit) -> Outcome | None:
    """Train in `path`; None if a rank was killed or raised, which its `rank-N.txt` then tells."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cluster.preloaded"])
    path.mkdir(exist_ok=True)
    for file in path.glob("rank-*.txt"):
        file.unlink()
    address = f"127.0.0.1:{free_port()}"
    places = [RankPlace(rank, stage.world_size, rank, 1, 0, address) for rank in range(stage.world_size)]
    ranks = [context.Process(target=_rank, args=(path, stage, place)) for place in places]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(SECONDS)
            assert rank.exitcode is not None, f"a rank hangs; {errors(path)}"
    finally:
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
    whole = all(rank.exitcode == 0 for rank in ranks)
    return read_outcome(path) if whole and has_outcome(path) else None


def errors(path: Path) -> str:
    """What ranks raised, with tracebacks."""
    return "\n".join(file.read_text() for file in sorted(path.glob("rank-*.txt")))


def _rank(path: Path, stage: TinyFit, place: RankPlace) -> None:
    try:
        run_rank(instance_of(stage, path), place)
    except Exception:
        (path / f"rank-{place.rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
