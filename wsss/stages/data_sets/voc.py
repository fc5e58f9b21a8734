"""PASCAL VOC's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from shards.sources.sbd import sbd_masks
from shards.sources.source import Source
from shards.sources.voc import VocSource
from wsss.contract.settings import MeasuringOnly, NotHashedPath, active_unless, settings
from wsss.stages.data_sets.shared import SharedSettings


@settings
class VocSettings(SharedSettings):
    """Additional settings for VOC's layout."""

    labels: Annotated[str, NotHashedPath()] = ""
    """voc: JSON file of image-level labels, `{key: [names]}` or `{key: {"present": [names], "unknown": [names]}}`,
    relative to the root; empty reads the XML annotations."""
    masks: Annotated[str, MeasuringOnly()] = "SegmentationClassAug"
    """voc: folder of masks, relative to the root."""
    sbd: Annotated[str, NotHashedPath()] = ""
    """voc: SBD's folder (the one that contains dataset/cls); its masks are used for images without one in `masks`."""
    partly_masked: Annotated[bool, MeasuringOnly(), active_unless("partly_masked", False)] = False
    """voc: images of masked_splits may have no mask: they are not measured. If false, such an image is refused. With
    VOC's own masks, SegmentationClass, the 1,464 images of VOC's list train have one among SBD's 10,582."""


def open_voc(given: VocSettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError, naming the setting, if files are missing."""
    root = given.root_folder("JPEGImages")
    if absent := [split for split in splits if split not in given.lists]:
        raise ValueError(f"lists.{absent[0]} is not set; set it to the file of that split's keys, one per line")
    labels = root / given.labels if given.labels else None
    if labels is not None and not labels.is_file():
        raise ValueError(f"labels = {given.labels!r} is not a file in root ({labels} does not exist)")
    if labels is None and not (root / "Annotations").is_dir():
        raise ValueError(
            f"labels is not set, and root = {given.root!r} contains no folder Annotations; set labels to the JSON file "
            "of the image-level labels, relative to the root"
        )
    _require_masks(given, root, splits)
    given.require_saliency(root)
    if given.boxes == "annotations" and not (root / "Annotations").is_dir():
        raise ValueError(f"boxes = 'annotations', but root = {given.root!r} contains no folder Annotations")
    sbd = Path(given.sbd) if given.sbd else None
    if sbd is not None:
        try:
            sbd_masks(sbd)
        except ValueError as error:
            raise ValueError(f"sbd = {given.sbd!r}: {error}") from None
    return VocSource(
        root=root,
        lists={split: _list_path(given, split) for split in splits},
        labels=labels,
        masks=given.masks,
        mask_suffix=given.suffix_of_masks(),
        masked_splits=given.masked_splits,
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
        boxes=given.boxes,
        saliency=given.saliency,
        sbd=sbd,
        partly_masked=given.partly_masked,
    )


def _require_masks(given: VocSettings, root: Path, splits: tuple[str, ...]) -> None:
    """Raise ValueError if masks are to be read and their folder is missing; SBD can take the place of all of them."""
    if not given.sbd and set(given.masked_splits) & set(splits) and not (root / given.masks).is_dir():
        raise ValueError(
            f"masks = {given.masks!r} is not a folder in root = {given.root!r}; set it to the folder of the masks (the "
            "devkit has SegmentationClass, for 2,913 images), sbd to a copy of SBD, which has more, or masked_splits = "
            "[] to read none"
        )


def _list_path(given: VocSettings, split: str) -> Path:
    """As for all data sets, and for a path with a folder also below the working folder."""
    here = Path(given.lists[split]).absolute()
    try:
        return given.list_paths((split,))[split]
    except ValueError:
        if "/" in given.lists[split] and here.is_file():
            return here
        raise
