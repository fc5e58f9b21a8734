"""Find the file that a command line names: a path, or the name of a recipe or sweep shipped with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

_TUNING = Path(__file__).resolve().parents[2] / "tuning"
RECIPES = _TUNING / "recipes"
SWEEPS = _TUNING / "sweeps"


def find_file(given: Path, *, shipped: Path) -> Path:
    """The TOML file for `given`: a path, or a bare name (`toy`), looked up in the working folder and in `shipped`.

    A path that does not exist is returned unchanged; `near_files` gives a hint for the error message.
    """
    if given.exists() or given.parent != Path():
        return given
    name = given.name if given.suffix == ".toml" else f"{given.name}.toml"
    return next((path for path in (Path(name), shipped / name) if path.is_file()), given)


def near_files(given: Path, *, shipped: Path) -> str:
    """A hint for a path that does not exist: similar file names in the same folder or among the shipped files."""
    if given.parent != Path() and not given.parent.is_dir():
        return _suggest(given, _names(shipped), cutoff=0.75) or f"; there is no folder {given.parent}"
    beside = {path.stem: str(path) for path in given.parent.glob("*.toml")}
    if found := _suggest(given, _names(shipped) | beside, cutoff=0.6 if given.parent == Path() else 0.75):
        return found
    return f"; shipped with the package: {', '.join(_names(shipped))}" if given.parent == Path() else ""


def _names(shipped: Path) -> dict[str, str]:
    """Name of each shipped file -> what to write on the command line."""
    return {path.stem: path.stem for path in sorted(shipped.glob("*.toml"))}


def _suggest(given: Path, known: dict[str, str], *, cutoff: float) -> str:
    stem = given.stem if given.suffix else given.name
    near = difflib.get_close_matches(stem, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(known[name] for name in near)}?" if near else ""
