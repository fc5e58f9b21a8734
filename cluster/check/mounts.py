"""Checks of `file_mounts`: the token, the folder of the project, single files in containers."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from cluster.check.cluster_file import ClusterFile
from cluster.check.findings import Finding

TOKEN = Path("~/.ray/auth_token")
_CODE = "~/wsss"
"""Where the commands of the cluster files expect the folder of the project."""
_LARGE = (".git", ".venv", "runs")
"""What the folder of the project holds that no node needs."""
_MAKE_TOKEN = "ray get-auth-token --generate; chmod 600 ~/.ray/auth_token"
_REMOTE_TOKENS = {"~/.ray": "/auth_token", "~/.ray/auth_token": ""}
"""Where nodes look for the token -> the token's place in what is copied there."""
_KNOWN = {"auth_token", "tls"}
"""What the folder ~/.ray may hold, since it is copied to all nodes."""


def check(file: ClusterFile) -> Iterator[Finding]:
    """All mounts of the file."""
    mounts = file.config.get("file_mounts") or {}
    if not any(_clean(remote) in _REMOTE_TOKENS for remote in mounts):
        yield Finding(
            file.where("file_mounts"), "the token is not copied to the nodes; add ~/.ray: ~/.ray", refused=True
        )
    for remote, local in mounts.items():
        where = file.where("file_mounts", remote)
        source = Path(str(local)).expanduser()
        if _clean(remote) == "~/.ray/auth_token" and file.docker:
            yield Finding(
                where,
                "is a single file: a container keeps the version that it was started with, so that a new token never "
                "arrives. Copy the folder: ~/.ray: ~/.ray",
            )
        elif source.is_file() and file.docker:
            yield Finding(
                where, f"{local} is a single file, whose changes a running container does not see; mount its folder"
            )
        if _clean(remote) in _REMOTE_TOKENS:
            yield from _token(where, _clean(local) + _REMOTE_TOKENS[_clean(remote)])
            yield from _besides_the_token(where, source)
        elif not source.exists():
            yield Finding(where, f"there is no {local}" + _from_here(str(local)))
        elif _clean(remote) == _CODE:
            yield from _project(where, str(local))
            yield from _excluded(file)
    if _CODE not in (_clean(remote) for remote in mounts) and any(
        f"{_CODE}/" in text for keys, text in file.texts() if keys[0] != "file_mounts"
    ):
        yield Finding(
            file.where("file_mounts"), f"the folder of the project is not copied to the nodes; add {_CODE}: ."
        )


def _excluded(file: ClusterFile) -> Iterator[Finding]:
    patterns = {str(pattern).strip("/*") for pattern in file.config.get("rsync_exclude") or []}
    if ".gitignore" in (file.config.get("rsync_filter") or []):
        patterns |= {".venv", "runs"}  # .gitignore names both
    if missing := [name for name in _LARGE if name not in patterns]:
        yield Finding(
            file.where("rsync_exclude"),
            f"does not name {', '.join(missing)}: {'they' if len(missing) > 1 else 'it'} would be copied to every node "
            "with the folder of the project. Write rsync_exclude: [.git, .venv, .tools, runs, __pycache__]",
        )


def _clean(remote: str) -> str:
    return str(remote).rstrip("/")


def _from_here(local: str) -> str:
    return "" if local.startswith(("/", "~")) else f" in {Path.cwd()}; call `ray up` in the folder of the project"


def _token(where: str, given: str) -> Iterator[Finding]:
    """`given`: the token on this machine, as the file names it."""
    token = Path(given).expanduser()
    if not token.is_file():
        if token != TOKEN.expanduser() and TOKEN.expanduser().is_file():
            yield Finding(where, f"there is no token {given}, but {TOKEN}: write ~/.ray: ~/.ray")
        else:
            yield Finding(where, f"there is no token {given}; make it once: {_MAKE_TOKEN}")
        return
    if len(token.read_text(errors="replace").strip()) < 32:
        yield Finding(where, f"{given} is empty or short; delete it and make it anew: {_MAKE_TOKEN}")
    if token.stat().st_mode & 0o077:
        yield Finding(where, f"others on this machine may read the token; chmod 600 {given}")


def _besides_the_token(where: str, folder: Path) -> Iterator[Finding]:
    others = sorted(path.name for path in folder.iterdir() if path.name not in _KNOWN) if folder.is_dir() else []
    if others:
        yield Finding(
            where,
            f"~/.ray is copied to every node, and holds more than the token: {', '.join(others[:5])}; move what the "
            "nodes must not have",
            refused=False,
        )


def _project(where: str, local: str) -> Iterator[Finding]:
    """A relative path is taken from the folder in which `ray up` is called, not from that of the file."""
    folder = Path(local).expanduser()
    try:
        name = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]
    except (OSError, KeyError, ValueError):
        name = None
    if name != "wsss":
        yield Finding(
            where,
            f"{local} is {folder.resolve()} here, which is not the project (no pyproject.toml of wsss): all of it "
            "would be copied to every node. Call `ray up` and this check in the folder of the project",
        )
        return
    for needed in ("constraints.txt", "cluster/node_environment.sh"):
        if not (folder / needed).is_file():
            yield Finding(where, f"{folder.resolve()} has no {needed}, which the setup commands need")
