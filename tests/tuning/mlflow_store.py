"""An MLflow store in a folder of runs: its schema, which takes seconds to create, is copied from the first one."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from cluster.tracking.tracker import MlflowTracker, connect


def empty_store(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A new folder of runs with an empty store."""
    folder = tmp_path_factory.mktemp(name) / "runs"
    folder.mkdir()
    schema = tmp_path_factory.getbasetemp() / "mlflow-schema.db"
    if not schema.exists():
        connect(f"sqlite:///{schema}").get_experiment_by_name("wsss")
    shutil.copy(schema, folder / "mlflow.db")
    return folder


def tracker_of(folder: Path) -> MlflowTracker:
    """A tracker that writes to the store of a folder and prints nothing."""
    return MlflowTracker(uri=f"sqlite:///{folder / 'mlflow.db'}", runs=folder, console=Console(file=io.StringIO()))
