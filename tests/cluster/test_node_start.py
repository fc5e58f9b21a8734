"""The head's start commands of cluster/onprem.yaml, run with Ray in namespaces of their own: ports, folders, TLS."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.nodes.certificates import make_authority
from tests.conftest import NOT_RUN

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.extended, pytest.mark.slow]
NETWORK = """
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add 10.79.0.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default via 10.79.0.2
"""
INSIDE = """
bash --login -i -c 'ray status' 2>&1 | grep -E 'Active|local.cluster' >&2
PYTHON HERE/look.py
ray stop > /dev/null 2>&1
"""
LOOK = """
import json, os, socket, grpc
from pathlib import Path
from ray._private.grpc_utils import init_grpc_channel
import psutil
opened = sorted({c.laddr.port for c in psutil.net_connections() if c.status == 'LISTEN' and c.laddr.ip != '127.0.0.1'})
def asks(channel):
    call = channel.unary_unary('/ray.rpc.NodeInfoGcsService/CheckAlive', request_serializer=bytes)
    try:
        call(b'', timeout=5)
    except grpc.RpcError as error:
        return error.code().name
    return 'OK'
folder = Path(os.environ['RAY_TMPDIR'])
print(json.dumps({
    'ports': opened,
    'mode': oct(folder.stat().st_mode & 0o777),
    'session': (folder / 'ray' / 'session_latest').is_dir(),
    'plain': asks(grpc.insecure_channel('10.79.0.1:6379')),
    'own': asks(init_grpc_channel('10.79.0.1:6379')),
}))
"""


def looked(folder: Path) -> dict[str, Any]:
    """What the started head shows from within."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip(f"{NOT_RUN}needs root, unshare and ip for namespaces")
    home, programs = folder / "home", folder / "bin"
    for made in (home, programs):
        made.mkdir(exist_ok=True)
    (folder / "runs").mkdir()  # by head_setup_commands
    (home / "wsss").symlink_to(ROOT)
    (home / ".ray").mkdir(exist_ok=True)
    (home / ".ray" / "auth_token").write_text("ab" * 32)
    (home / ".ray" / "auth_token").chmod(0o600)
    (home / ".bashrc").write_text(
        f". ~/wsss/cluster/node_environment.sh\nPATH={programs}:{Path(sys.executable).parent}:$PATH\n"
    )
    (home / ".profile").write_text(". ~/.bashrc\n")
    (programs / "wsss").write_text(f'#!/bin/sh\nexec {sys.executable} -m wsss "$@"\n')
    (programs / "wsss").chmod(0o755)
    (folder / "look.py").write_text(LOOK)
    config = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())
    (command,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    # The file of the autoscaler comes by `ray up`; the folder of runs is here.
    command = command.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "").replace(
        "/mnt/shared", str(folder)
    )
    inside = INSIDE.replace("HERE", str(folder)).replace("PYTHON", sys.executable)
    script = f"{NETWORK}\ncd {folder}\n{command} >&2 || exit 9\n{inside}"
    namespaces = ["unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc"]
    environment = {
        "HOME": str(home),
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
    }
    session = tempfile.mkdtemp(prefix="wsss-", dir="/tmp")  # short: the path of a socket has at most 107 bytes
    environment["WSSS_RAY_FOLDER"] = session
    done = subprocess.run(
        [*namespaces, "bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    shutil.rmtree(session)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert "Active" in done.stderr, "ray status finds the cluster in a login shell"
    return found


@pytest.mark.parametrize("tls", [False, True])
def test_ports_folders_and_encryption_of_a_started_head(tls: bool, tmp_path: Path) -> None:
    if tls:
        make_authority(tmp_path / "home" / ".ray" / "tls", days=3)
    found = looked(tmp_path)
    config = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())
    words = shlex.split(config["head_start_ray_commands"][-1])
    options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "port=" in word)
    fixed = {int(value) for value in options.values()} - {
        int(options["metrics-export-port"]),
        int(options["dashboard-port"]),
    }
    first, last = int(options["min-worker-port"]), int(options["max-worker-port"])
    outside = {port for port in found["ports"] if not first <= port <= last}
    assert outside == fixed - {first, last}, "every port is one of the file, and metrics do not listen"
    assert (found["mode"], found["session"]) == ("0o700", True)
    assert found["own"] == "OK"
    assert found["plain"] == ("UNAVAILABLE" if tls else "UNAUTHENTICATED")
