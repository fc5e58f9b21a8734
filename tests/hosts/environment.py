"""A Python environment of its own for every host, on the files of this one.

By overlayfs where the kernel allows it: mounting takes no time, and what a host installs is written to its own folder.
Elsewhere by hard links, which takes about 20 s for a host. Packages replace files and do not write into them, so that
the files of this environment stay as they are.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BASE = Path(sys.prefix).resolve()
"""Without links: scripts name their interpreter by the path at which it was installed."""
INSIDE = Path("/mnt/env")
"""Where every host sees its environment."""


def make_layer(layer: Path) -> None:
    """Write what all hosts change: scripts name the interpreter's new path, wsss is left out, pip is there.

    A file that is left out is a character device 0:0, as overlayfs has it.
    """
    (layer / "bin").mkdir(parents=True)
    for script in (BASE / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        before = script.read_bytes()
        if str(BASE).encode() in before and b"\0" not in before:
            (layer / "bin" / script.name).write_bytes(before.replace(str(BASE).encode(), str(INSIDE).encode()))
            (layer / "bin" / script.name).chmod(script.stat().st_mode)
    packages = next((BASE / "lib").glob("python3.*")) / "site-packages"
    (layer / packages.relative_to(BASE)).mkdir(parents=True)
    for own in [*packages.glob("__editable__*wsss*"), *packages.glob("wsss-*.dist-info"), BASE / "bin" / "wsss"]:
        without = layer / own.relative_to(BASE)
        without.unlink(missing_ok=True)
        if own.exists():
            os.mknod(without, 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    if not (BASE / "bin" / "pip").exists():
        _add_pip(layer)


def _add_pip(layer: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        command = [str(BASE / "bin" / "python"), "-m", "ensurepip", "--root", root]
        subprocess.run(command, check=True, capture_output=True)
        shutil.copytree(Path(root) / BASE.relative_to("/"), layer, dirs_exist_ok=True)
    for script in (layer / "bin").glob("pip*"):
        script.write_bytes(script.read_bytes().replace(str(BASE).encode(), str(INSIDE).encode()))
    if not (layer / "bin" / "pip").exists():
        (layer / "bin" / "pip").symlink_to("pip3")


def mount_environment(layer: Path, own: Path) -> None:
    """Mount a host's environment at `INSIDE`; `own` is the host's folder, which keeps what it installs."""
    INSIDE.mkdir(parents=True)
    for part in ("upper", "work"):
        (own / part).mkdir(parents=True, exist_ok=True)
    if not (own / "links").exists():
        options = f"lowerdir={layer}:{BASE},upperdir={own / 'upper'},workdir={own / 'work'}"
        command = ["mount", "-t", "overlay", "-o", options, "overlay", str(INSIDE)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        _link(layer, own / "links")
    subprocess.run(["mount", "--bind", str(own / "links"), str(INSIDE)], check=True)


def _link(layer: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--link", str(BASE), str(target)], check=True)
    for path in _files(layer):
        replaced = target / path.relative_to(layer)
        if replaced.is_dir() and not replaced.is_symlink():
            shutil.rmtree(replaced)
        replaced.unlink(missing_ok=True)
        if not stat.S_ISCHR(path.lstat().st_mode):
            replaced.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, replaced, follow_symlinks=False)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
