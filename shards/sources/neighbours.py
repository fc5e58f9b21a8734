"""Suggestions for a missing file: the same name in another Unicode form, and similar names in its folder."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property, lru_cache
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
        same = there.by_composed.get(_composed(part), ())
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
    if same := there.by_folded.get(_folded(path.name)):
        return f" ({below}{same} exists, in another case or Unicode form: use that name, or rename the file)"
    if other := there.images_by_stem.get(_folded(path.stem)):
        return f" ({below}{other} exists, with another extension: use that name, or convert the file)"
    for one, suffix in _with_suffix(there, path, mask_suffix or ""):
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
        same = there.by_folded.get(_folded(part))
        if same and part not in there.by_composed.get(_composed(part), ()):
            return f"there is no folder {'/'.join(parts[: number + 1])}, but one called {same}"
    return f"there is no folder {folder}"


def _with_suffix(there: _Folder, path: PurePosixPath, suffix: str) -> Iterator[tuple[str, str]]:
    """Files with the same extension whose name starts with the stem (without `suffix`), and the rest of their stem."""
    stem = _composed(path.stem.removesuffix(suffix))
    for place in range(bisect_left(there.stems, (stem, "")), len(there.stems)):
        own, one = there.stems[place]
        if not own.startswith(stem):
            return
        more = own.removeprefix(stem)
        if one.lower().endswith(path.suffix) and more[:1] in tuple(_BEFORE_SUFFIX):
            yield one, more


def _is_image(name: str) -> bool:
    return name.lower().endswith(_IMAGES)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


class _Folder:
    """The names in a folder, in the orders in which they are looked up: every file of a list may be missing."""

    def __init__(self, names: list[str]) -> None:
        self._names = sorted(names)
        self.by_composed: dict[str, tuple[str, ...]] = {}
        for name in names:
            composed = _composed(name)
            self.by_composed[composed] = (*self.by_composed.get(composed, ()), name)

    @cached_property
    def by_folded(self) -> dict[str, str]:
        """Without case -> the first such name."""
        return {_folded(name): name for name in reversed(self._names)}

    @cached_property
    def images_by_stem(self) -> dict[str, str]:
        """Stem without case -> the first such image."""
        return {_folded(PurePosixPath(name).stem): name for name in reversed(self._names) if _is_image(name)}

    @cached_property
    def stems(self) -> list[tuple[str, str]]:
        """Composed stem and name, sorted."""
        return sorted((_composed(PurePosixPath(name).stem), name) for name in self._names)


def _names(folder: Path) -> _Folder | None:
    """The names in a folder; None if the folder does not exist."""
    try:
        return _scanned(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _scanned(folder: str, _modified: int) -> _Folder:
    """Cached, since all files of a list may need this look-up."""
    return _Folder(os.listdir(folder))
