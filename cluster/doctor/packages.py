"""Python and the packages that this project needs, from their metadata: nothing is imported."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

from cluster.check.versions import installed, pinned
from cluster.doctor.examined import Examined

_ROOT = Path(__file__).resolve().parents[2]
_ESSENTIAL = ("torch", "ray", "deepspeed", "mlflow", "webdataset", "timm", "segmentation-models-pytorch")
"""Packages whose tested versions matter most: their formats or their protocols change."""
_EXTRAS = {"onnx": "wsss export --onnx"}
"""Optional extra -> the command that needs it."""


def examine_packages() -> Iterator[Examined]:
    """Python's version, every required package, the tested versions and the optional packages."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Examined("ok", "Python", version)
    else:
        yield Examined("fault", "Python", f"{version}; 3.11 or 3.12 is needed", "install Python 3.12 and make a .venv")
    try:
        needed = [Requirement(text) for text in requires("wsss") or ()]
    except PackageNotFoundError:
        yield Examined("fault", "packages", "wsss is not installed in this environment", "pip install --editable .")
        return
    required = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [one for one in required if not _fits(one)]
    if wrong:
        named = ", ".join(f"{one.name} {installed(one.name) or '(missing)'} ({one.specifier})" for one in wrong)
        yield Examined("fault", "packages", f"not as needed: {named}", _install([str(one) for one in wrong]))
    else:
        yield Examined("ok", "packages", f"{len(required)} of {len(required)} as needed")
    yield from _tested()
    for extra, command in _EXTRAS.items():
        own = [one for one in needed if one.marker is not None and one.marker.evaluate({"extra": extra})]
        if absent := [one.name for one in own if one not in required and not _fits(one)]:
            yield Examined(
                "note", extra, f"{', '.join(absent)} not installed; {command} needs it", _install([f"wsss[{extra}]"])
            )


def _fits(requirement: Requirement) -> bool:
    version = installed(requirement.name)
    return bool(version) and requirement.specifier.contains(version, prereleases=True)


def _tested() -> Iterator[Examined]:
    """Against constraints.txt of a checkout; a wheel has none."""
    versions = {name: (installed(name).partition("+")[0], pinned(name, _ROOT)) for name in _ESSENTIAL}
    other = {name: pair for name, pair in versions.items() if pair[1] and pair[0] and pair[0] != pair[1]}
    if other:
        named = ", ".join(f"{name} {here} (tested: {tested})" for name, (here, tested) in other.items())
        yield Examined(
            "note", "versions", f"others than tested: {named}", _install([f"{n}=={t}" for n, (_, t) in other.items()])
        )
    else:
        named = ", ".join(f"{name} {here}" for name, (here, _) in versions.items() if here)
        yield Examined("ok", "versions", named)


def _install(words: list[str]) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.join(words)}"
