"""The pictures below a folder, and the table without labels that makes them a data set of this project."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.files import write_bytes
from shards.sources.disk import is_key
from shards.wording import counted

ENDINGS = frozenset(
    ("bmp", "gif", "j2k", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
)
"""File extensions of pictures, in small letters; other files are passed over and counted."""
SPLIT = "pictures"


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """What was found below a folder."""

    root: Path
    pictures: tuple[str, ...]
    """Paths relative to the root, sorted."""
    refused: Mapping[str, str]
    """Pictures whose names cannot be used -> the reason."""
    others: int
    """Files that are not pictures by their extension."""


def find_pictures(root: Path) -> PictureFolder:
    """All pictures below a folder, also in folders inside it; hidden files and folders are passed over.

    Raises ValueError if there is no picture, and if two pictures differ only in their extension, since their masks
    would have the same name.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the folder of the pictures")
    pictures: list[str] = []
    refused: dict[str, str] = {}
    others = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        for name in sorted(name for name in names if not name.startswith(".")):
            path = (below / name).as_posix()
            if PurePosixPath(name).suffix[1:].lower() not in ENDINGS:
                others += 1
            elif not _is_usable(path):
                refused[path] = "its name has characters that a name of a mask cannot have; rename it"
            else:
                pictures.append(path)
    if not pictures and not refused:
        seen = f"; it has {counted(others, 'other file')}" if others else ""
        raise ValueError(f"{root} has no pictures ({', '.join(sorted(ENDINGS))}){seen}")
    _refuse_equal_names(pictures, root)
    return PictureFolder(root=root, pictures=tuple(sorted(pictures)), refused=refused, others=others)


def refuse_inside(out: Path, root: Path) -> None:
    """Raise ValueError if results would be written among the pictures, where the next run would read them."""
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"OUT = {out} is inside IN = {root}: the next run would read the masks as pictures; name another"
        )


def key_of_picture(path: str) -> str:
    """The name of a picture's mask: its path without the extension."""
    return path[: len(path) - len(PurePosixPath(path).suffix)]


def with_state_of_files(fingerprint: str, root: Path, pictures: Iterable[str]) -> str:
    """A fingerprint that also changes if a picture is replaced by another of the same name: by size and time."""
    digest = hashlib.sha256(fingerprint.encode())
    for picture in pictures:
        try:
            state = (root / picture).stat()
            digest.update(f"{picture} {state.st_size} {state.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{picture} is gone\n".encode())
    return digest.hexdigest()


def write_table(pictures: Iterable[str], path: Path) -> None:
    """A table that names the pictures and no labels."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image"])
    writer.writerows([picture] for picture in pictures)
    write_bytes(path, text.getvalue().encode(), what="the list of pictures")


def _is_usable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not valid UTF-8 on disk
        return False
    return is_key(path) and key_of_picture(path) != ""


def _refuse_equal_names(pictures: Iterable[str], root: Path) -> None:
    met: dict[str, str] = {}
    for path in pictures:
        key = key_of_picture(path)
        if key in met:
            raise ValueError(
                f"{root} has {met[key]} and {path}, which differ only in their extension: their masks would have the "
                "same name; rename or move one"
            )
        met[key] = path
