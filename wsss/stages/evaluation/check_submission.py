"""The check of a submission: finds errors in a results.zip before the server refuses it."""

from __future__ import annotations

import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from shards.images import decode_index_png, image_mode
from shards.layer import Layer, split_of
from shards.records import Sample

REPACK = "pack the files without their folder: zip -j -X results.zip FOLDER/*.png"
_NOT_OURS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
"""Files and folders that a file manager adds to an archive by itself."""
_METHOD = "method.txt"
Sizes = Mapping[str, tuple[int, int]]


def no_split(layer: Layer, split: str) -> str:
    """The message for a split that a layer does not have."""
    have = sorted({split_of(shard) for shard in layer.shards()})
    return f"{layer.path} holds no split {split!r}; it has {', '.join(have) or 'none'}"


def expected_images(samples: Path, split: str) -> dict[str, tuple[int, int]]:
    """Basename -> (H, W) of every image of one split of a samples layer."""
    layer = Layer(samples, Sample.kind)
    sizes = {
        PurePosixPath(e.key).name: tuple(e.metadata["size"])
        for row in layer.manifest_entries(split)
        for e in row.entries
    }
    if not sizes:
        raise ValueError(no_split(layer, split))
    return cast(dict[str, tuple[int, int]], sizes)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a submission."""

    member: str
    """Name of the file in the zip, or of the zip itself."""
    kind: str
    """The kind of error, the same text for all errors of one kind."""
    text: str
    """The error, and what is allowed."""

    def __str__(self) -> str:
        return f"{self.member}: {self.text}"


def fault_lines(faults: Iterable[Fault], *, examples: int = 5) -> Iterator[str]:
    """One line per fault, at most `examples` per kind, then the number of each kind (a zip may hold 20,000 files)."""
    counts: Counter[str] = Counter()
    for fault in faults:
        counts[fault.kind] += 1
        if counts[fault.kind] <= examples:
            yield str(fault)
    for kind, count in counts.items():
        if count > examples:
            yield f"{count} files in all: {kind}"
    yield f"faults: {counts.total()}" if counts else "in order"


def check_submission(path: Path, *, num_classes: int, expected: Sizes | None = None) -> Iterator[Fault]:
    """The faults of a submission; none if it is valid.

    `expected` maps each image's basename to its (H, W); without it only the format is checked. Members are read one by
    one. Raises ValueError if the file does not exist or is not a zip, or if none of its images is expected.
    """
    if not path.is_file():
        raise ValueError(f"{path} is a folder; name the zip" if path.is_dir() else f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable zip file: {error}") from error
    with archive:
        names = [_Name.of(info) for info in archive.infolist()]
        stems = {name.stem for name in names if name.is_png}
        if not stems:
            wanted = f"; {len(expected)} images are expected" if expected else ""
            yield Fault(path.name, "no PNG", f"the zip holds no PNG ({len(names)} entries in all){wanted}")
        elif expected and not {_in_form_of(stem, expected) for stem in stems} & expected.keys():
            raise ValueError(
                f"{path} holds {len(stems)} PNG files and none of the {len(expected)} images expected; it has "
                f"{min(stems)!r}, expected is {min(expected)!r}: is it of another split?"
            )
        if any(name.parts == (_METHOD,) for name in names):
            text = f"the zip has {_METHOD}, as submissions to ImageNet-S do; --format imagenet_s checks these"
            yield Fault(path.name, "another format", text)
        seen: set[str] = set()
        for name in names:
            yield from _check_member(archive, name, seen, num_classes=num_classes, expected=expected)
        if stems:
            for stem in sorted((expected or {}).keys() - seen):
                yield Fault(f"{stem}.png", "missing", "missing")


@dataclass(frozen=True)
class _Name:
    """The name of a member, split into its folders and file name."""

    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    """Folders and the file's name; separators may be / or \\."""

    @classmethod
    def of(cls, info: zipfile.ZipInfo) -> _Name:
        return cls(info, tuple(part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")))

    @property
    def is_folder(self) -> bool:
        return self.info.filename.endswith(("/", "\\"))

    @property
    def is_added(self) -> bool:
        """True for files that a file manager added by itself: macOS also stores attributes of a.png in ._a.png."""
        return any(part in _NOT_OURS for part in self.parts) or self.file.name.startswith("._")

    @property
    def is_png(self) -> bool:
        return not self.is_folder and not self.is_added and self.file.suffix.lower() == ".png"

    @property
    def file(self) -> PurePosixPath:
        return PurePosixPath(self.parts[-1] if self.parts else "")

    @property
    def stem(self) -> str:
        return self.file.stem


def _in_form_of(stem: str, expected: Sizes) -> str:
    """The expected name that equals this one in another Unicode normal form; if there is none, the name itself."""
    for form in ("NFC", "NFD"):
        if (other := unicodedata.normalize(form, stem)) in expected:
            return other
    return stem


def _check_member(
    archive: zipfile.ZipFile, name: _Name, seen: set[str], *, num_classes: int, expected: Sizes | None
) -> Iterator[Fault]:
    full = name.info.filename
    if name.is_added:
        yield Fault(full, "file of a file manager", f"was added by a file manager and is not a mask; {REPACK}")
        return
    if name.is_folder:
        yield Fault(full, "folder", f"is a folder, but the zip must contain only <basename>.png files; {REPACK}")
        return
    if not name.is_png:
        yield Fault(full, "no plain PNG", "the zip must contain only <basename>.png files, no folders")
        return
    yield from (Fault(full, kind, text) for kind, text in _check_name(name))
    stem = _in_form_of(name.stem, expected or {})
    if stem in seen:
        yield Fault(full, "twice", "appears twice")
    seen.add(stem)
    if stem != name.stem:
        yield Fault(full, "Unicode form", f"is written in another Unicode form than the image's name {stem!r}")
    try:
        data = archive.read(name.info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield Fault(full, "unreadable", f"cannot be read: {error}")
        return
    for kind, text in _check_png(data, num_classes, (expected or {}).get(stem)):
        yield Fault(full, kind, text)
    if expected is not None and stem not in expected:
        yield Fault(full, "not in the list", "no such image in the list")


def _check_name(name: _Name) -> Iterator[tuple[str, str]]:
    """Kind and text of the faults of a mask's name."""
    if "\\" in name.info.filename:
        yield (
            "backslash in the name",
            "the name has a backslash, as in some archives packed on Windows; a server on Linux reads it as part of "
            f"the file's name; {REPACK}",
        )
    elif len(name.parts) > 1:
        yield "in a folder", f"is in a folder, but the zip must contain only <basename>.png files, no folders; {REPACK}"
    if name.file.suffix != ".png":
        yield "ending", f"ends in {name.file.suffix}, but the ending must be .png"


_BIT_DEPTH = 24
"""Offset of the bits per channel in a PNG: in IHDR, the first chunk."""


def _check_png(data: bytes, num_classes: int, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """Kind and text of each fault."""
    try:
        mask = decode_index_png(data)
    except ValueError as error:
        yield "no mask", str(error)
        return
    if (mode := image_mode(data)) != "L":
        yield "mode", f"has mode {mode}; write one 8-bit grey channel of class ids, without a palette"
    elif (bits := data[_BIT_DEPTH]) != 8:
        yield "bit depth", f"has {bits} bits per pixel, which readers scale; write 8 bits"
    if size is not None and mask.shape != size:
        yield "size", f"is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[1]}x{size[0]}"
    if (highest := int(mask.max(initial=0))) > num_classes:
        yield "class id too high", f"holds the value {highest}; allowed are 0..{num_classes}"
