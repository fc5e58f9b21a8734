"""The check of a submission in the format of ImageNet-S: RGB PNGs in folders of classes, and method.txt."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from shards.id_colours import decode_id_png
from shards.layer import Layer
from shards.records import Sample
from wsss.stages.evaluation.check_submission import Fault, Sizes, no_split

_METHOD, _MATCH = "method.txt", "match.json"


def expected_images(samples: Path, split: str) -> dict[str, tuple[int, int]]:
    """Key -> (H, W) of every image of one split of a samples layer."""
    layer = Layer(samples, Sample.kind)
    entries = [entry for row in layer.manifest_entries(split) for entry in row.entries]
    if not entries:
        raise ValueError(no_split(layer, split))
    return cast(dict[str, tuple[int, int]], {entry.key: tuple(entry.metadata["size"]) for entry in entries})


def check_imagenet_s(path: Path, *, num_classes: int, expected: Sizes | None = None) -> Iterator[Fault]:
    """The faults of a submission; none if it is valid.

    `expected` maps each image's key, <wnid>/<name>, to its (H, W); without it only the format is checked. Members are
    read one by one. Raises ValueError if the file does not exist or is not a zip.

    Source: README.md of LUSSeg/ImageNet-S, commit b2312ba7: "Submission rules".
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable zip file: {error}") from error
    with archive:
        seen: set[str] = set()
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if _METHOD not in names:
            yield Fault(path.name, "no method.txt", "the zip has no method.txt, the description of the method")
        for name in names:
            if name in (_METHOD, _MATCH):
                continue
            key = name.removesuffix(".png")
            if not name.endswith(".png") or name.count("/") != 1:
                yield Fault(name, "name", "is not <wnid>/<name>.png, method.txt or match.json")
                continue
            if key in seen:
                yield Fault(name, "twice", "appears twice")
            seen.add(key)
            if expected is not None and key not in expected:
                yield Fault(name, "not in the list", "no such image in the list")
            for kind, text in _check_mask(archive, name, num_classes, (expected or {}).get(key)):
                yield Fault(name, kind, text)
        for key in sorted((expected or {}).keys() - seen):
            yield Fault(f"{key}.png", "missing", "missing")


def _check_mask(
    archive: zipfile.ZipFile, name: str, num_classes: int, size: tuple[int, int] | None
) -> Iterator[tuple[str, str]]:
    """Kind and text of each fault."""
    try:
        ids_HW = decode_id_png(archive.read(name))
    except ValueError as error:
        yield "no mask", str(error)
        return
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield "unreadable", f"cannot be read: {error}"
        return
    if size is not None and ids_HW.shape != size:
        yield "size", f"is {ids_HW.shape[1]}x{ids_HW.shape[0]}, but its image is {size[1]}x{size[0]}"
    if (highest := int(ids_HW.max(initial=0))) > num_classes:
        yield "class id too high", f"holds the class id {highest}; allowed are 0..{num_classes}"
