from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RANK = """
import time
from pathlib import Path
import torch
from cluster.training.batches import RankBatches
from cluster.training.loader_server import start_loader_server
from tests.cluster.tiny import TinyFit, TinySet

if __name__ == "__main__":
    start_loader_server()
    stage = TinyFit(batch_size=3, num_epochs=1000, loader_workers=2)
    examples = TinySet(stage, Path("unused"))
    stream = RankBatches(examples, stage, rank=0, world_size=1, device=torch.device("cpu")).after(0)
    print([micro_batch.batch["key"] for micro_batch in next(stream)], flush=True)
    time.sleep(600)
"""


def processes_with(marker: str) -> list[psutil.Process]:
    """The running processes with this value of TEST_MARKER in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_rank(tmp_path: Path) -> None:
    """Neither the server nor its children outlive their rank."""
    script, marker = tmp_path / "rank.py", str(tmp_path)
    script.write_text(RANK)
    environment = os.environ | {"TEST_MARKER": marker, "PYTHONPATH": os.pathsep.join(sys.path)}
    rank = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    assert rank.stdout.readline().count("'k") == 3
    assert len(processes_with(marker)) >= 4, "the rank, the server and two loader processes"
    rank.kill()
    rank.wait(60)
    rank.stdout.close()
    ends = time.monotonic() + 30
    while (left := processes_with(marker)) and time.monotonic() < ends:
        time.sleep(0.1)
    for process in left:
        process.kill()
    assert not left, [process.cmdline() for process in left]
