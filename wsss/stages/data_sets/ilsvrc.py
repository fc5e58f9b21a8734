"""ILSVRC DET, and track 1 of LID, which trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from shards.sources.ilsvrc_det import SPLITS, IlsvrcDetSource
from shards.sources.lid import LidSource
from shards.sources.source import Source
from wsss.contract.settings import NotHashedPath, active_with, settings
from wsss.stages.data_sets.shared import SharedSettings


@settings
class IlsvrcSettings(SharedSettings):
    """Additional settings for ILSVRC DET and LID."""

    package: Annotated[str, NotHashedPath()] = ""
    """lid: the folder that contains LID_track1_imageset and LID_track1_annotations."""
    val_labels: Annotated[Literal["masks", "unknown"], active_with("source", "lid")] = "masks"
    """lid: image-level labels of val: `masks`, the classes in its masks, or `unknown`, as for test."""


def open_ilsvrc_det(given: IlsvrcSettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError, naming the setting, if folders are missing."""
    given.refuse_boxes("masks", because="ilsvrc_det has no masks")
    source = _ilsvrc_det(given, splits)
    given.require_saliency(source.root)
    return source


def _ilsvrc_det(given: IlsvrcSettings, splits: tuple[str, ...]) -> IlsvrcDetSource:
    _refuse_other_splits(splits)
    return IlsvrcDetSource(
        root=given.root_folder("ILSVRC/Data/DET", "Data/DET"),
        splits=splits,
        lists=given.list_paths(splits),
        boxes="annotations" if given.boxes == "annotations" else "none",
        saliency=given.saliency,
        class_names=given.class_names,
    )


def open_lid(given: IlsvrcSettings, splits: tuple[str, ...]) -> Source:
    """Open LID; ILSVRC is only needed for train. Raises ValueError, naming the setting, if folders are missing."""
    _refuse_other_splits(splits)
    if not given.package or not Path(given.package).is_dir():
        raise ValueError(
            f"package = {given.package!r} is not a folder; set it to the folder that contains LID_track1_imageset, or "
            'use source = "ilsvrc_det"'
        )
    train = _ilsvrc_det(given, ("train",)) if "train" in splits else None
    given.require_saliency(*([train.root] if train else []), Path(given.package))
    return LidSource(
        package=Path(given.package),
        train=train,
        saliency=given.saliency,
        splits=splits,
        lists=given.list_paths(tuple(split for split in splits if split != "train")),
        val_labels=given.val_labels,
        masked_splits=given.masked_splits,
        boxes=given.boxes,
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
    )


def _refuse_other_splits(splits: tuple[str, ...]) -> None:
    if unknown := [split for split in splits if split not in SPLITS]:
        raise ValueError(f"splits names {unknown[0]!r}; this data set has only {', '.join(SPLITS)}")
