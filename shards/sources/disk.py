"""Reading a data set's folders: images, index masks, lists of keys, and which files are there at all.

Reasons never hold the place of the data set: the same fault reads the same on every machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from shards.file_system_errors import lasting_error
from shards.images import decode_grey_png, decode_index_png, image_metadata
from shards.orientation import stored_size, upright
from shards.records import BadSampleError
from shards.sources.neighbours import beside, in_other_form

_LOOKERS, _LOOKS = 8, 1000
"""Threads that look at files, and at how many each before it takes the next."""
_PIECE = 1 << 16
_DRIVE = re.compile(r"[A-Za-z]:")
_PART = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class StoredImage:
    """An image file that was checked to decode."""

    name: str
    """Path below the data set's root."""
    encoded: bytes
    size: tuple[int, int]
    """(H, W), upright."""
    orientation: int
    """EXIF's, 1 to 8."""


def words(error: Exception) -> str:
    """An error without the path that the system's own words hold."""
    return error.strerror or "not readable" if isinstance(error, OSError) else str(error)


def _open(root: Path, name: str) -> int:
    try:
        return os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if (lasting := lasting_error(error, f"{root}/{name}", verb="read")) is not None:
            raise lasting from error  # too many files are open here: the image itself may be sound
        raise


def read_file(root: Path, name: str) -> bytes:
    """The bytes of the file `name` below `root`, in whatever Unicode form the disk writes its name.

    Half a million times without `pathlib`'s care, which costs as much.
    """
    try:
        descriptor = _open(root, name)
    except FileNotFoundError:
        if (other := in_other_form(root, name)) is None:
            raise
        descriptor = _open(root, other)
    try:
        pieces = [os.read(descriptor, _PIECE)]
        while pieces[-1]:
            pieces.append(os.read(descriptor, _PIECE))
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) <= 2 else b"".join(pieces)


def read_image(root: Path, name: str) -> StoredImage:
    """The image file `name` below `root`. Raises `BadSampleError` where it is missing or does not decode."""
    try:
        encoded = read_file(root, name)
    except OSError as error:
        there = beside(root, name) if isinstance(error, FileNotFoundError) else ""
        raise BadSampleError(f"cannot read {name}: {words(error)}{there}") from error
    try:
        size, orientation = image_metadata(encoded)
    except ValueError as error:
        raise BadSampleError(f"{name}: {error}") from error
    return StoredImage(name, encoded, size, orientation)


def read_index_png(
    root: Path, name: str, *, what: str, image: StoredImage, mask_suffix: str | None = None
) -> np.ndarray:
    """The index PNG `name` that belongs to `image`, u8[H, W]. Raises `BadSampleError` where it does not fit.

    One that has the size of the pixels as stored is turned with the image. `mask_suffix`: the value of that setting,
    where the data set has it: a message for a missing mask may tell another one.
    """
    try:
        values = decode_index_png(read_file(root, name))
    except (OSError, ValueError) as error:
        there = beside(root, name, mask_suffix=mask_suffix) if isinstance(error, FileNotFoundError) else ""
        raise BadSampleError(f"cannot read the {what} {name}: {words(error)}{there}") from error
    return fitted(values, name=f"the {what} {name}", image=image)


def read_grey_png(root: Path, name: str, *, what: str, image: StoredImage) -> np.ndarray:
    """As `read_index_png`, of a map of brightness: u8[H, W], white is 255 whatever the depth of the file."""
    try:
        values = decode_grey_png(read_file(root, name))
    except (OSError, ValueError) as error:
        raise BadSampleError(f"cannot read the {what} {name}: {words(error)}") from error
    return fitted(values, name=f"the {what} {name}", image=image)


def fitted(values_HW: np.ndarray, *, name: str, image: StoredImage) -> np.ndarray:
    """A map of an image, of its upright size or of its size as stored, to the upright one."""
    if values_HW.shape == image.size:
        return values_HW
    if values_HW.shape == stored_size(image.size, orientation=image.orientation):
        return upright(values_HW, orientation=image.orientation)
    (height, width), (of_height, of_width) = values_HW.shape, image.size
    raise BadSampleError(f"{name} is {width}x{height}, its image {of_width}x{of_height}")


def read_keys(path: Path, split: str, *, below: str, columns: int = 1) -> list[str]:
    """The keys of a list, first on each line; up to `columns` words stand on a line.

    Raises ValueError, with the line, for a list that is missing or empty, and for what is named twice or cannot be the
    name of a file. `below`: the folder that the keys are paths below, for that message.
    """
    if not path.is_file():
        raise ValueError(f"the list of split {split!r} does not exist: {path}")
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"the list of split {split!r} is not UTF-8 text: {path}: {error}") from None
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        if not (found := line.split()):
            continue
        if len(found) > columns or not is_key(found[0]):
            raise ValueError(
                f"the list of split {split!r} has no key in line {number}: {line.strip()[:80]!r}; write one a line, "
                f"a path below {below} without its ending: {path}"
            )
        if found[0] in keys:
            raise ValueError(f"the list of split {split!r} names {found[0]!r} more than once: {path}")
        keys[found[0]] = None
    if not keys:
        raise ValueError(f"the list of split {split!r} is empty: {path}")
    return list(keys)


def is_key(text: str) -> bool:
    """True for a path below a folder: parts of at most 200 printable characters, nothing that leads out of it."""
    return all(part not in (".", "..") and _PART.fullmatch(part) is not None for part in text.split("/"))


def as_path(text: str) -> str:
    """A path as Windows' programs write it, with slashes; and without ./ before it. Drives (C:) stay as they are."""
    text = text if _DRIVE.match(text) else text.replace("\\", "/")
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    return text


def stems(folder: Path, *, ending: str) -> list[str]:
    """Names, without their ending, of a folder's files of that ending, sorted; [] where there is no such folder.

    One scan: no file is opened or looked at. Raises ValueError for pictures of another ending, which would be lost.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [name.removesuffix(ending) for name in names if name.endswith(ending) and not name.startswith(".")]
    if len(found) < len(names):
        other = [name for name in names if name.lower().endswith((".jpeg", ".jpg", ".png")) and name[0] != "."]
        if odd := sorted(name for name in other if not name.endswith(ending)):
            raise ValueError(f"{folder} holds {odd[0]}; its images end in {ending}: rename it or take it away")
    return sorted(found)


def folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; [] where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def file_sizes(root: Path, names: Sequence[str]) -> np.ndarray:
    """i64[N]: bytes of every file below `root`, 0 where there is none.

    A look at each: a second or two for half a million on a disk. On a network's disk it is the waiting that costs, so
    several look at once.
    """

    def look(start: int) -> list[int]:
        return [_size(root, name) for name in names[start : start + _LOOKS]]

    with ThreadPoolExecutor(_LOOKERS) as pool:
        found = list(chain.from_iterable(pool.map(look, range(0, len(names), _LOOKS))))
    return np.array(found, dtype=np.int64)


def _size(root: Path, name: str) -> int:
    try:
        return os.stat(f"{root}/{name}").st_size
    except OSError:
        other = in_other_form(root, name)
        return 0 if other is None else os.stat(f"{root}/{other}").st_size


def presence(root: Path, names: Iterable[str]) -> Iterator[bytes]:
    """For every path below `root`, b"1" where there is such a file and b"0" where not, by one scan of each folder."""
    scanned: dict[str, frozenset[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder not in scanned:
            try:
                scanned[folder] = frozenset(os.listdir(root / folder))
            except OSError:
                scanned[folder] = frozenset()
        yield b"1" if last in scanned[folder] or in_other_form(root, name) is not None else b"0"
