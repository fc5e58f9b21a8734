"""`wsss cluster mlflow FILE`: a tunnel from the user's machine to the MLflow server on the head of a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from cluster.tracking.mlflow_folder import PORT_VARIABLE, server_port
from cluster.tracking.ports import HOST, accepts, checked_port, why_not_free

OPEN_SECONDS = 120.0
"""For Ray to find the head and for SSH to log in."""
ANSWER_SECONDS = 20.0
"""For MLflow to answer through an open tunnel."""


def open_tunnel(file: Path, *, port: int) -> int:
    """Open it by Ray's own means, as `ray dashboard` does, and keep it until Ctrl-C; returns the exit status.

    Its address is printed once MLflow answers there. Raises ValueError if the port cannot be used or MLflow does not
    answer, with the cause.
    """
    checked_port(str(port), name="--port")
    remote = server_port()
    if cause := why_not_free(port):
        raise ValueError(
            f"{cause}; name another one with --port (a tunnel that was just closed keeps its port for 10 s)"
        )
    words = ["--port", str(port), "--remote-port", str(remote), str(file)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", *words]
    with tempfile.TemporaryFile() as output:
        tunnel = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for_mlflow(tunnel, output, file, port=port, remote=remote)
            print(f"MLflow is at http://{HOST}:{port} until Ctrl-C", flush=True)
            tunnel.wait()
            raise ValueError(f"the tunnel was closed: {_cause(output, file)}")
        except KeyboardInterrupt:
            return 0
        finally:
            tunnel.terminate()
            tunnel.wait()


def _wait_for_mlflow(tunnel: subprocess.Popen[bytes], output: IO[bytes], file: Path, *, port: int, remote: int) -> None:
    begun, opened = time.monotonic(), 0.0
    while not _is_mlflow(port):
        now = time.monotonic()
        opened = opened or (now if accepts(port) else 0.0)
        if tunnel.poll() is not None:
            raise ValueError(f"no tunnel to MLflow: {_cause(output, file)}")
        if opened and now > opened + ANSWER_SECONDS:
            raise ValueError(
                f"the tunnel is open, but no MLflow answers at port {remote} of the head: the start commands of the "
                "cluster files call `wsss cluster mlflow --serve`, whose log there is ~/.wsss/mlflow/log.txt; where "
                f"it listens on another port, set {PORT_VARIABLE} here too"
            )
        if now > begun + OPEN_SECONDS:
            raise ValueError(f"no tunnel to MLflow within {OPEN_SECONDS:.0f} s: {_cause(output, file)}")
        time.sleep(0.3)


def _is_mlflow(port: int) -> bool:
    """Whether MLflow answers: it tells its version, which another program hardly does in these words."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/version", timeout=5) as answer:
            return re.fullmatch(rb"\d+\.\d+[\w.]*", answer.read(100).strip()) is not None
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _cause(output: IO[bytes], file: Path) -> str:
    """Why Ray or SSH ended, from what they printed."""
    output.seek(0)
    text = output.read().decode(errors="replace")
    if "Head node of cluster" in text:
        return f"this machine knows of no running head; start the cluster with `ray up {file}`"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if said := [
        line for line in lines if re.search(r"^ssh:|denied|closed|refused|timed out|port forwarding", line, re.I)
    ]:
        return f"SSH to the head says: {said[-1]}"
    found = text.partition("The exception is: ")[2].strip() or (lines[-1] if lines else "no message")
    return found.splitlines()[0]
