"""Reads a data set's folders: images, index masks, lists of keys, and which files exist.

Reasons do not contain the path of the data set, so the same fault gives the same text on every machine.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from shards.file_system_errors import PASSING, lasting_error
from shards.images import decode_grey_png, decode_index_png, decode_label_png, image_metadata
from shards.label_type import BYTE, LabelType
from shards.orientation import stored_size, upright
from shards.records import BadSampleError
from shards.sources.neighbours import beside, in_other_form

_LOOKERS, _LOOKS = 8, 1000
"""Number of threads that look up file sizes, and number of files per task."""
_PAUSES = (0.1, 1.0, 5.0)
"""Seconds before a file is read again."""
_MOST_HELD = 50_000
"""Names of files in memory before the folders already scanned are dropped."""
_PIECE = 1 << 16
_DRIVE = re.compile(r"[A-Za-z]:")
_PART = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class StoredImage:
    """An image file that was checked to decode."""

    name: str
    """Path relative to the data set's root."""
    encoded: bytes
    size: tuple[int, int]
    """(H, W) of the upright image."""
    orientation: int
    """EXIF orientation, 1 to 8."""


def words(error: Exception) -> str:
    """The text of an error, without the path that an OSError contains."""
    return error.strerror or "not readable" if isinstance(error, OSError) else str(error)


def _open(root: Path, name: str) -> int:
    try:
        return os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        lasting = None if error.errno in PASSING else lasting_error(error, f"{root}/{name}", verb="read")
        if lasting is not None:
            raise lasting from error  # such as too many open files: the image itself may be fine
        raise


def read_file(root: Path, name: str) -> bytes:
    """The bytes of the file `name` below `root`; the name on disk may have another Unicode form.

    An error that may pass, as of a network file system, is met by further attempts. Raises FileSystemError if the file
    system stays away, OSError for a matter of this file alone.
    """
    for pause in _PAUSES:
        try:
            return _read(root, name)
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(pause)
    try:
        return _read(root, name)
    except OSError as error:
        if (lasting := lasting_error(error, f"{root}/{name}", verb="read")) is not None:
            raise lasting from error
        raise


def _read(root: Path, name: str) -> bytes:
    """Avoids `pathlib`, which would double the time for half a million files."""
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
    """Read the image file `name` below `root`. Raises `BadSampleError` if it is missing or does not decode."""
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
    root: Path,
    name: str,
    *,
    what: str,
    image: StoredImage,
    mask_suffix: str | None = None,
    labels: LabelType = BYTE,
) -> np.ndarray:
    """Read the index PNG `name` that belongs to `image`, u8[H, W]. Raises `BadSampleError` if its size does not match.

    `labels`: the type of the data set's masks; with uint16 the result is u16[H, W], or u8[H, W] for a PNG of 8 bits.

    A mask of the size of the stored pixels is turned upright with the image. `mask_suffix`: the value of that setting,
    if the data set has it; the message for a missing mask may suggest another value.
    """
    try:
        values = (decode_index_png if labels == BYTE else decode_label_png)(read_file(root, name))
    except (OSError, ValueError) as error:
        there = beside(root, name, mask_suffix=mask_suffix) if isinstance(error, FileNotFoundError) else ""
        if isinstance(error, FileNotFoundError) and mask_suffix is not None:
            there += f"; every image of the splits in masked_splits needs a {what}"
        raise BadSampleError(f"cannot read the {what} {name}: {words(error)}{there}") from error
    return fitted(values, name=f"the {what} {name}", image=image)


def read_grey_png(root: Path, name: str, *, what: str, image: StoredImage) -> np.ndarray:
    """Like `read_index_png`, for a map of brightness: u8[H, W], white is 255 at any bit depth of the file."""
    try:
        values = decode_grey_png(read_file(root, name))
    except (OSError, ValueError) as error:
        raise BadSampleError(f"cannot read the {what} {name}: {words(error)}") from error
    return fitted(values, name=f"the {what} {name}", image=image)


def read_saliency(root: Path, name: str, *, image: StoredImage) -> np.ndarray | None:
    """The saliency map of an image, u8[H, W], from the grey PNG `name`; None if there is no such file.

    Raises: BadSampleError if it cannot be read, or if its size does not match.
    """
    if not (root / name).exists() and in_other_form(root, name) is None:
        return None
    return read_grey_png(root, name, what="saliency map", image=image)


def fitted(values_HW: np.ndarray, *, name: str, image: StoredImage) -> np.ndarray:
    """The map of an image turned upright, if its size is the image's upright or stored size."""
    if values_HW.shape == image.size:
        return values_HW
    if values_HW.shape == stored_size(image.size, orientation=image.orientation):
        return upright(values_HW, orientation=image.orientation)
    (height, width), (of_height, of_width) = values_HW.shape, image.size
    raise BadSampleError(f"{name} is {width}x{height}, but its image is {of_width}x{of_height}")


def read_keys(path: Path, split: str, *, below: str, columns: int = 1) -> list[str]:
    """The keys of a list, the first word of each line; a line has up to `columns` words.

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
                f"the list of split {split!r} has no valid key in line {number}: {line.strip()[:80]!r}; write one per "
                f"line, a path below {below} without its file extension: {path}"
            )
        if found[0] in keys:
            raise ValueError(f"the list of split {split!r} contains {found[0]!r} more than once: {path}")
        keys[found[0]] = None
    if not keys:
        raise ValueError(f"the list of split {split!r} is empty: {path}")
    return list(keys)


def is_key(text: str) -> bool:
    """True for a path that stays inside its folder, with parts of at most 200 printable characters."""
    return all(part not in (".", "..") and _PART.fullmatch(part) is not None for part in text.split("/"))


def as_path(text: str) -> str:
    """A path with backslashes replaced by slashes and without a leading ./; paths with a drive (C:) are unchanged."""
    text = text if _DRIVE.match(text) else text.replace("\\", "/")
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    return text


def stems(folder: Path, *, ending: str) -> list[str]:
    """Sorted names of the files in a folder that end in `ending`, without it; [] if the folder does not exist.

    One scan of the folder; no file is opened. Raises ValueError for images with another extension, which would be
    missed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [name.removesuffix(ending) for name in names if name.endswith(ending) and not name.startswith(".")]
    if len(found) < len(names):
        other = [name for name in names if name.lower().endswith((".jpeg", ".jpg", ".png")) and name[0] != "."]
        if odd := sorted(name for name in other if not name.endswith(ending)):
            raise ValueError(f"{folder} contains {odd[0]}, but its images must end in {ending}: rename or remove it")
    return sorted(found)


def folders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder; [] if the folder does not exist."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def file_sizes(root: Path, names: Sequence[str]) -> np.ndarray:
    """i64[N]: size of every file below `root` in bytes, 0 if it does not exist.

    Takes one or two seconds for half a million files on a local disk. On a network disk latency dominates, so several
    threads are used.
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
    """For every path below `root`, b"1" if the file exists and b"0" if not.

    Each folder is scanned once if the names of a folder follow each other, at most twice otherwise; the names of few
    folders are in memory then.
    """
    scanned: dict[str, frozenset[str]] = {}
    seen: set[str] = set()
    held, grouped = 0, True
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder not in scanned:
            grouped = grouped and folder not in seen
            if grouped and held > _MOST_HELD:
                scanned.clear()
                held = 0
            scanned[folder] = _names_in(root / folder)
            seen.add(folder)
            held += len(scanned[folder])
        yield b"1" if last in scanned[folder] or in_other_form(root, name) is not None else b"0"


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
