"""All data sets. To add one, add a file of settings next to this one, a base class to `DataSettings` and an entry to
`DATA_SETS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shards.sources.finished import FinishedShards
from shards.sources.source import Source
from wsss.contract.settings import setting_values, settings
from wsss.stages.data_sets.coco import CocoSettings, open_coco
from wsss.stages.data_sets.folder import FolderSettings, open_folder
from wsss.stages.data_sets.ilsvrc import IlsvrcSettings, open_ilsvrc_det, open_lid
from wsss.stages.data_sets.imagenet_s import open_imagenet_s
from wsss.stages.data_sets.shards import ShardsSettings, open_shards
from wsss.stages.data_sets.toy import ToySettings, open_toy
from wsss.stages.data_sets.voc import VocSettings, open_voc


@settings
class DataSettings(ToySettings, VocSettings, IlsvrcSettings, CocoSettings, FolderSettings, ShardsSettings):
    """The settings of all data sets; each data set reads some of them."""


@dataclass(frozen=True)
class DataSet:
    """A layout of data on disk."""

    open: Callable[[Any, tuple[str, ...]], Source | FinishedShards]
    """Called with (settings, splits): checks them and returns the source."""
    reads: frozenset[str]
    """Names of the settings that it reads."""


def _reads(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MASKS = "masked_splits other_classes_as boxes saliency"
DATA_SETS: Mapping[str, DataSet] = {
    "toy": DataSet(open_toy, _reads("counts size draw_seed")),
    "voc": DataSet(open_voc, _reads(f"root lists class_names {_MASKS} labels masks mask_suffix sbd partly_masked")),
    "ilsvrc_det": DataSet(open_ilsvrc_det, _reads("root lists class_names boxes saliency")),
    "lid": DataSet(open_lid, _reads(f"root lists class_names {_MASKS} package val_labels")),
    "coco": DataSet(open_coco, _reads(f"root lists class_names {_MASKS} annotations image_folders")),
    "folder": DataSet(
        open_folder, _reads(f"root lists class_names {_MASKS} label_separator class_list mask_folder mask_suffix")
    ),
    "imagenet_s": DataSet(open_imagenet_s, _reads(f"root lists class_names {_MASKS} class_list")),
    "shards": DataSet(lambda given, _: open_shards(given), _reads("root cache cache_gigabytes")),
}
"""Value of the setting `source` -> its data set."""


def open_data_set(source: str, given: DataSettings, splits: tuple[str, ...]) -> Source | FinishedShards:
    """Open the data set. Raises ValueError for settings that are given but not read by this data set."""
    data_set, defaults = DATA_SETS[source], setting_values(DataSettings())
    given_values = setting_values(given)
    for name, default in defaults.items():
        if name not in data_set.reads and given_values[name] != default:
            reads = ", ".join(sorted(data_set.reads))
            raise ValueError(f"{name} is given, but source = {source!r} does not read it; it reads {reads}")
    return data_set.open(given, splits)


def why_no_masks(source: str, given: DataSettings, split: str) -> str:
    """Why no image of a split can have a mask, judging by the settings only; empty if some may have one."""
    if source in ("toy", "shards"):
        return ""
    if "masked_splits" not in DATA_SETS[source].reads:
        return f"source = {source!r} has no masks"
    if source == "folder" and not given.mask_folder:
        return "mask_folder is not set"
    return "" if split in given.masked_splits else f"masked_splits does not name {split!r}"
