"""The files of a host: home, keys, /etc/hosts, and the laptop's clone of the project."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.hosts.environment import INSIDE
from tests.hosts.requirements import program

_BASHRC = f"""\
export PATH={INSIDE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONNOUSERSITE=1 DS_BUILD_OPS=0
# The hosts have no way to a registry; all packages but wsss itself are in the environment.
export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"""


def make_files(folder: Path, *, name: str, hosts_file: str) -> None:
    """Folders, the host's SSH key, /etc/hosts, and a login shell that uses the environment."""
    for part in ("home/.ssh", "tmp", "etc", "env"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for part in ("home", "home/.ssh"):
        (folder / part).chmod(0o700)
    (folder / "tmp").chmod(0o1777)
    new_key(folder / "etc" / "host_key", comment=name)
    (folder / "etc" / "hosts").write_text(hosts_file)
    # Names are never asked for over the network: without a name server the answer is immediate.
    (folder / "etc" / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (folder / "home" / ".profile").write_text("[ -r ~/.bashrc ] && . ~/.bashrc\n")
    (folder / "home" / ".bashrc").write_text(_BASHRC)


def hosts_file(name: str, address: str, style: str) -> str:
    """/etc/hosts: `debian` as the installers of Debian and Ubuntu write it, `address` with the host's real address."""
    own = {"debian": f"127.0.1.1 {name}\n", "address": f"{address} {name}\n", "none": ""}[style]
    return f"127.0.0.1 localhost\n{own}"


def new_key(path: Path, *, comment: str) -> None:
    if not path.exists():
        words = ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        subprocess.run([program("ssh-keygen"), *words], check=True)


def allow_user(home: Path, public_key: Path) -> None:
    """The user with this key may log in."""
    (home / ".ssh" / "authorized_keys").write_bytes(public_key.read_bytes())


def copy_project(source: Path, target: Path) -> None:
    """A clone of the project with the files as they are now, committed or not."""
    git = [program("git"), "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "--quiet", str(source), str(target)], check=True, capture_output=True)
    changed = [*git, "-C", str(source), "ls-files", "--modified", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(changed, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)
