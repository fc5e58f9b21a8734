"""`wsss cluster down`: a clean end of a cluster of own machines, where `ray down` stops the head alone."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.check.cluster_file import ClusterFile
from cluster.check.mounts import TOKEN
from cluster.check.usable import usable_cluster_file

_SECONDS = 180
"""For one machine to stop Ray, which may take 30 s, and to remove files."""
_SCRIPT = Path(__file__).parents[1] / "stop_node.sh"


def down(path: Path, *, keep_files: bool) -> int:
    """Stop Ray on the head and on all workers and remove token, key and session folders there; prints what stays.

    Returns 1 if a machine was not reached or something failed there. Raises ValueError, before any machine is asked,
    for a cluster file that does not name its machines and their user, or that still has placeholders.
    """
    file = usable_cluster_file(path)
    _check(file)
    _ray_down(path)
    provider = file.config["provider"]
    head, workers = str(provider["head_ip"]), [str(address) for address in provider["worker_ips"]]
    with _mark() as mark:
        script = _with_variables(mark, keep_files=keep_files)
        results = {head: _stop(file, head, script)}  # first, since it would start workers again
        with ThreadPoolExecutor(32) as threads:
            results |= dict(zip(workers, threads.map(lambda worker: _stop(file, worker, script), workers), strict=True))
    for address, lines in results.items():
        print(f"{address}{' (head)' if address == head else ''}")
        print("".join(f"  {line}\n" for line in lines), end="")
    print("stays as well: the folder of runs, and your public key in ~/.ssh/authorized_keys of the machines")
    return 1 if any(line.startswith("FAILED") for lines in results.values() for line in lines) else 0


def _check(file: ClusterFile) -> None:
    if file.provider != "local":
        raise ValueError(
            f"{file.path}: provider.type is {file.provider!r}; `wsss cluster down` is for own machines (local), "
            f"`ray down {file.path}` ends the machines of a cloud"
        )
    if file.docker.get("container_name"):
        raise ValueError(
            f"{file.path}: `ray down` stops the containers on all machines; remove the folder "
            f"ray_tmp_mount/{file.config['cluster_name']} below /tmp on each of them, which holds the token"
        )
    provider = file.config["provider"]
    if not provider.get("head_ip") or provider.get("worker_ips") is None:
        raise ValueError(f"{file.path}: provider.head_ip and provider.worker_ips must name the machines")
    if not (file.config.get("auth") or {}).get("ssh_user"):
        raise ValueError(
            f"{file.path}: auth.ssh_user is missing; name the user of the machines, as in ssh USER@ADDRESS"
        )


def _ray_down(path: Path) -> None:
    """Ray's own part, which also corrects its record of running machines on this one."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "down", "--yes", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"ray down failed: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)


@contextmanager
def _mark() -> Iterator[Path]:
    """A file in this machine's ~/.ray. A machine that sees it too has the same home folder, whose token is kept."""
    folder = TOKEN.expanduser().parent
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".this-machine-") as file:
        yield Path(file.name)


def _with_variables(mark: Path, *, keep_files: bool) -> str:
    token = TOKEN.expanduser()
    digest = hashlib.sha256(token.read_bytes()).hexdigest() if token.is_file() else "none"
    home = f"$HOME/.ray/{mark.name}"
    return f'TOKEN_SUM={digest}; MARK="{home}"; KEEP={int(keep_files)}\n{_SCRIPT.read_text()}'


def _stop(file: ClusterFile, address: str, script: str) -> list[str]:
    """Run the script on a machine; what it printed, or why the machine was not reached."""
    # As Ray runs commands: the login shell's PATH leads to the Python environment.
    command = f"bash --login -i -c {shlex.quote(script)}"
    try:
        done = subprocess.run(
            [*_ssh(file.config["auth"], file.config["provider"], address), command],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"FAILED: no answer within {_SECONDS} s"]
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            f"FAILED: not reached or stopped there ({cause})",
            "Ray ends there by itself two minutes after the head; token and session folder stay",
        ]
    return done.stdout.strip().splitlines()


def _ssh(auth: Mapping[str, Any], provider: Mapping[str, Any], address: str) -> Sequence[str]:
    """ssh with the options that Ray uses; through the head if the workers cannot be reached from here."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    options += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    if key := auth.get("ssh_private_key"):
        options += ["-i", str(Path(str(key)).expanduser()), "-o", "IdentitiesOnly=yes"]
    user, outside = auth["ssh_user"], provider.get("external_head_ip")
    if proxy := auth.get("ssh_proxy_command"):
        options += ["-o", f"ProxyCommand={proxy}"]
    elif outside and address != provider["head_ip"]:
        words = shlex.join(["ssh", *options, "-W", f"{address}:22", f"{user}@{outside}"])
        options += ["-o", f"ProxyCommand={words}"]
    target = outside if outside and address == provider["head_ip"] else address
    return ["ssh", *options, f"{user}@{target}"]
