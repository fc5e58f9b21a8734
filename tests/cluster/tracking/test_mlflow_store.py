from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_store_is_opened_while_mlflow_is_being_imported(tmp_path: Path) -> None:
    script = """
import os, sys
from cluster.tracking.mlflow_store import connect, import_early
importing = import_early()
experiments = connect(sys.argv[1]).search_experiments()
importing.join()
print(len(experiments), os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/mlflow.db"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "1 true\n"), ended.stderr
