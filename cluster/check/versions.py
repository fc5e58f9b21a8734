"""The versions that were tested, and those that are installed, without importing the packages."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_DRIVERS = {13: 580, 12: 525, 11: 450}
"""Major version of CUDA -> the oldest major version of NVIDIA's Linux driver that runs it.

Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1.
"""


def pinned(package: str, folder: Path) -> str:
    """The version of a package in `constraints.txt` of a checkout; empty if there is none."""
    try:
        text = (folder / "constraints.txt").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    return found[1] if found else ""


def installed(package: str) -> str:
    """The installed version; empty if the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def cuda_of_torch() -> str:
    """The version of CUDA that torch was built for, from its file `version.py`; empty without torch or CUDA."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return ""
    found = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
    return found[1] if found else ""


def oldest_driver(cuda: str) -> int:
    """The oldest major version of the driver for this version of CUDA; 0 if it is not known."""
    major = cuda.partition(".")[0]
    return _DRIVERS.get(int(major), 0) if major.isdigit() else 0
