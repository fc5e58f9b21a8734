"""Refuses workers that run other code than the driver: their results would differ without an error.

Every worker states once what it runs: a digest of the installed sources, and versions of the libraries that compute.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("shards", "wsss", "cluster", "tuning")
SOURCES = (".py", ".tsv")
LIBRARIES = (
    "ray",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "deepspeed",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python-headless",
    "albumentations",
)
_DIGITS = 16
_ABSENT = "not installed"


class OtherCodeError(RuntimeError):
    """A worker runs other code than the driver; the message names both sides."""


@dataclass(frozen=True)
class CodeIdentity:
    """What one process runs."""

    host: str
    folder: str
    """Where its package is installed."""
    values: dict[str, str] = field(default_factory=dict)
    """`source digest`, `wsss`, `python` and the libraries -> digest or version."""


@cache
def own_identity() -> CodeIdentity:
    """What this process runs, as found when it is first called; tens of milliseconds."""
    root = Path(__file__).resolve().parents[2]
    values = {"source digest": source_digest(root), "wsss": _version("wsss")}
    # The third number of Python's version changes no result.
    values["python"] = ".".join(platform.python_version_tuple()[:2])
    return CodeIdentity(socket.gethostname(), str(root), values | {name: _version(name) for name in LIBRARIES})


def source_digest(root: Path) -> str:
    """A digest of the names and bytes of all sources of the packages in the folder `root`."""
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in SOURCES:
                data = path.read_bytes()
                total.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return total.hexdigest()[:_DIGITS]


def require_same(worker: CodeIdentity, *, who: str, driver: CodeIdentity | None = None) -> None:
    """Raise `OtherCodeError` if a worker runs other code than the driver; `driver`: this process if not given."""
    driver = driver or own_identity()
    names = dict.fromkeys([*driver.values, *worker.values])
    found = [(name, driver.values.get(name, _ABSENT), worker.values.get(name, _ABSENT)) for name in names]
    different = [f"{name} {here} (driver) and {there} (worker)" for name, here, there in found if here != there]
    if different:
        raise OtherCodeError(
            f"{who} on {worker.host} ({worker.folder}) runs other code than the driver on {driver.host} "
            f"({driver.folder}): {'; '.join(different)}; install the same version on every node (ray up does so), or "
            "submit the job with --working-dir, which takes the driver's files to every node; if the files were "
            "changed during the run, start it again"
        )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _ABSENT
