"""COCO's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shards.sources.coco import CocoSource
from shards.sources.source import Source
from wsss.contract.settings import NotHashedPath, active_with, settings
from wsss.stages.data_sets.shared import SharedSettings


@settings
class CocoSettings(SharedSettings):
    """Additional settings for COCO's layout."""

    annotations: Annotated[Literal["instances", "panoptic"], active_with("source", "coco")] = "instances"
    """coco: annotations that give classes, masks and boxes: `instances` (things) or `panoptic` (things and stuff)."""
    image_folders: Annotated[dict[str, str], NotHashedPath()] = Field(default_factory=dict)
    """coco: split -> folder of its images, relative to the root; if not given, the part of the JSON file's name after
    the last underscore (val2017 for instances_val2017.json)."""


def open_coco(given: CocoSettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError, naming the setting, if files are missing."""
    root = given.root_folder("")
    listed = given.list_paths(splits)
    files = {split: listed.get(split) or _own_file(root, split, given.annotations) for split in splits}
    folders = {split: given.image_folders.get(split) or path.stem.rpartition("_")[2] for split, path in files.items()}
    for split, folder in folders.items():
        if not (root / folder).is_dir():
            raise ValueError(
                f"{root / folder} is not a folder; set image_folders.{split} to the folder of the images in root"
            )
    given.require_saliency(root)
    return CocoSource(
        root=root,
        annotations=files,
        images=folders,
        form=given.annotations,
        masked_splits=given.masked_splits,
        boxes=given.boxes,
        saliency=given.saliency,
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
    )


def _own_file(root: Path, split: str, form: str) -> Path:
    """COCO's standard file of a split; for test there are only lists of images."""
    names = [f"{what}_{split}{year}.json" for what in (form, "image_info") for year in (2017, 2015, 2014)]
    for name in names:
        if (root / "annotations" / name).is_file():
            return root / "annotations" / name
    raise ValueError(f"{root / 'annotations'} has no {names[0]}; set lists.{split} to the JSON file of the split")
