"""The source code version of a run: the git commit if it is known, else the version of the installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

VARIABLE = "WSSS_GIT_COMMIT"
_PACKAGE = Path(__file__).resolve().parents[1]


def source_commit(package: Path = _PACKAGE) -> str:
    """The git commit of the code in the folder `package`, if it is known.

    A checkout: its commit, with `-dirty` appended if tracked files have changed. A copy without git's folder, such as
    the working directory of a Ray job: the commit in the environment variable WSSS_GIT_COMMIT
    (`check_commit`). Installed from a git
    address: the commit that the installer recorded. Installed otherwise: `version X`. None of these: `unknown`.
    """
    return _checked_out(package) or _given() or _installed(package) or "unknown"


def check_commit(package: Path = _PACKAGE) -> None:
    """Raise ValueError, before any work, if the variable names no commit, or another one than the checkout's.

    Later a difference is no error: files may be changed during a run, and the checkout's own commit is recorded.
    """
    given, found = _given(), _checked_out(package)
    if not given or not found:
        return
    commit, _, dirty = given.partition("-")
    found_commit, _, found_dirty = found.partition("-")
    if not found_commit.startswith(commit) or dirty != found_dirty:
        raise ValueError(
            f"{VARIABLE} is {given!r}, but the code that runs is a git checkout at {found!r} ({package.parent}); the "
            "variable is for copies without git: unset it here"
        )


def _given() -> str:
    """Raises ValueError if the variable is set to something that is no commit."""
    given = os.environ.get(VARIABLE, "")
    if given and not re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", given):
        raise ValueError(
            f"{VARIABLE} is {given!r}; allowed: the 7 to 40 hexadecimal digits of a commit, and -dirty if files were "
            "changed, as `git describe --always --dirty --abbrev=40 --exclude='*'` prints"
        )
    return given


def _checked_out(package: Path) -> str:
    """Empty if git does not track the package: an environment may be inside an unrelated repository."""
    if not _git(package, "ls-files", "__init__.py"):
        return ""
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _installed(package: Path) -> str:
    """The version recorded by the installer (PEP 610 defines the format of direct_url.json)."""
    for found in metadata.distributions(name=package.name, path=[str(package.parent)]):
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        commit: str = origin.get("vcs_info", {}).get("commit_id", "")
        return commit or f"version {found.version}"
    return ""
