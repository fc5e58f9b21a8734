"""Notes of how long shards took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wsss.contract.shard_times import FOLDER, note_seconds, read_times, remove_times


def test_every_process_has_its_own_file(tmp_path: Path) -> None:
    note_seconds(tmp_path, "train-000000", 1.5)
    note_seconds(tmp_path, "train-000001", 2.5)
    code = "import sys; from pathlib import Path; from wsss.contract.shard_times import note_seconds;"
    code += "note_seconds(Path(sys.argv[1]), 'train-000002', 4.0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=os.environ, timeout=60)
    times = read_times(tmp_path)
    assert times.seconds == {"train-000000": 1.5, "train-000001": 2.5, "train-000002": 4.0}
    assert times.workers == 2
    assert times.first == {"train-000000", "train-000002"}
    remove_times(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    assert read_times(tmp_path).workers == 0


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    note_seconds(tmp_path, "train-000000", 1.5)
    (file,) = (tmp_path / FOLDER).iterdir()
    with file.open("a") as out:
        out.write('["train-0000')
    assert read_times(tmp_path).seconds == {"train-000000": 1.5}


def test_a_note_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder would be")
    note_seconds(tmp_path, "train-000000", 1.5)
    remove_times(tmp_path)
