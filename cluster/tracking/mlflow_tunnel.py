"""`wsss cluster mlflow FILE`: a tunnel from the user's machine to the MLflow server on the head of a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.tracking.mlflow_folder import HOST, PORT


def open_tunnel(file: Path, *, port: int = PORT) -> int:
    """Open it by Ray's own means, as `ray dashboard` does, until Ctrl-C; returns the exit status."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; name the cluster file of `ray up`")
    print(f"MLflow is at http://{HOST}:{port} until Ctrl-C", flush=True)
    words = ["--port", str(port), "--remote-port", str(PORT)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", *words, str(file)]
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    except KeyboardInterrupt:
        return 0
