"""Finding the file that a command line names: a path, or the name of a recipe or sweep that the package ships."""

from __future__ import annotations

import difflib
from pathlib import Path

_TUNING = Path(__file__).resolve().parents[2] / "tuning"
RECIPES = _TUNING / "recipes"
SWEEPS = _TUNING / "sweeps"


def find_file(given: Path, *, shipped: Path) -> Path:
    """The TOML file behind `given`: a path, or a bare name such as `toy`, looked up here and then in `shipped`.

    A path at which there is nothing comes back as it is. What to say about it: `near_files`.
    """
    if given.exists() or given.parent != Path():
        return given
    name = given.name if given.suffix == ".toml" else f"{given.name}.toml"
    return next((path for path in (Path(name), shipped / name) if path.is_file()), given)


def near_files(given: Path, *, shipped: Path) -> str:
    """A hint for a path at which there is no file: what is called nearly so beside it, or among the shipped files."""
    if given.parent != Path() and not given.parent.is_dir():
        return _suggest(given, _names(shipped), cutoff=0.75) or f"; there is no folder {given.parent}"
    beside = {path.stem: str(path) for path in given.parent.glob("*.toml")}
    if found := _suggest(given, _names(shipped) | beside, cutoff=0.6 if given.parent == Path() else 0.75):
        return found
    return f"; shipped with the package: {', '.join(_names(shipped))}" if given.parent == Path() else ""


def _names(shipped: Path) -> dict[str, str]:
    """Name -> what to write for it, of the shipped files."""
    return {path.stem: path.stem for path in sorted(shipped.glob("*.toml"))}


def _suggest(given: Path, known: dict[str, str], *, cutoff: float) -> str:
    stem = given.stem if given.suffix else given.name
    near = difflib.get_close_matches(stem, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(known[name] for name in near)}?" if near else ""
