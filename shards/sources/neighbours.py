"""Suggestions for a missing file: the same name in another Unicode form, and similar names in its folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2")
_BEFORE_SUFFIX = "_-. "
"""Characters with which the suffix of a mask's name may begin: 1_mask.png for 1.jpg."""


def in_other_form(root: Path, name: str) -> str | None:
    """The path `name` below `root` as stored on disk, if that is another Unicode form of the same characters.

    macOS writes u + diaeresis for what other systems write as one character. None if there is no such path, or more
    than one.
    """
    if name.isascii():
        return None
    found = ""
    for part in name.split("/"):
        there = _names(root / found)
        if there is None:
            return None
        same = there.get(_composed(part), ())
        if part in same:
            found = f"{found}/{part}".lstrip("/")
        elif len(same) == 1:
            found = f"{found}/{same[0]}".lstrip("/")
        else:
            return None
    return found if found != name else None


def beside(root: Path, name: str, *, mask_suffix: str | None = None) -> str:
    """A hint, in parentheses, at a similar file next to the missing file `name` below `root`; empty if there is none.

    `mask_suffix`: the value of that setting, for a mask whose name depends on it.
    """
    path = PurePosixPath(name)
    folder = "" if str(path.parent) == "." else str(path.parent)
    there = _names(root / folder)
    if there is None:
        return f" ({_missing_folder(root, folder)})"
    below = f"{folder}/" if folder else ""
    names = sorted(one for group in there.values() for one in group)
    wanted, stem = _folded(path.name), _folded(path.stem)
    if same := [one for one in names if _folded(one) == wanted]:
        return f" ({below}{same[0]} exists, in another case or Unicode form: use that name, or rename the file)"
    if other := [one for one in names if _folded(PurePosixPath(one).stem) == stem and _is_image(one)]:
        return f" ({below}{other[0]} exists, with another extension: use that name, or convert the file)"
    for one, suffix in _with_suffix(names, path, mask_suffix or ""):
        if mask_suffix is not None:
            return f" ({below}{one} exists: set mask_suffix = {suffix!r})"
        return f" ({below}{one} exists: rename it)"
    return ""


def _missing_folder(root: Path, folder: str) -> str:
    """A message about a missing folder, with a folder of the same name in another case if there is one."""
    parts = folder.split("/")
    for number, part in enumerate(parts):
        above = "/".join(parts[:number])
        there = _names(root / above)
        if there is None:
            break
        same = [one for group in there.values() for one in group if _folded(one) == _folded(part)]
        if same and part not in same:
            return f"there is no folder {'/'.join(parts[: number + 1])}, but one called {same[0]}"
    return f"there is no folder {folder}"


def _with_suffix(names: list[str], path: PurePosixPath, suffix: str) -> Iterator[tuple[str, str]]:
    """Files with the same extension whose name starts with the stem (without `suffix`), and the rest of their stem."""
    stem = _composed(path.stem.removesuffix(suffix))
    for one in names:
        own = _composed(PurePosixPath(one).stem)
        more = own.removeprefix(stem)
        if one.lower().endswith(path.suffix) and own.startswith(stem) and more[:1] in tuple(_BEFORE_SUFFIX):
            yield one, more


def _is_image(name: str) -> bool:
    return name.lower().endswith(_IMAGES)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _names(folder: Path) -> dict[str, tuple[str, ...]] | None:
    """Composed name -> names on disk, for everything in a folder; None if the folder does not exist."""
    try:
        return _scanned(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _scanned(folder: str, _modified: int) -> dict[str, tuple[str, ...]]:
    """Cached, since all files of a list may need this look-up."""
    found: dict[str, tuple[str, ...]] = {}
    for name in os.listdir(folder):
        composed = _composed(name)
        found[composed] = (*found.get(composed, ()), name)
    return found
