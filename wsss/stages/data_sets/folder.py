"""A folder of images with a table of labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shards.sources.folder import FolderSource
from shards.sources.source import Source
from wsss.contract.settings import NotHashedPath, active_with, settings
from wsss.stages.data_sets.shared import SharedSettings


@settings
class FolderSettings(SharedSettings):
    """Additional settings for a folder with a table of labels."""

    label_separator: Annotated[str, Field(min_length=1), active_with("source", "folder")] = "|"
    """folder: separator between the class names in a cell of the table."""
    class_list: Annotated[str, NotHashedPath()] = ""
    """folder: file of all class names, relative to the root, one per line, in the order of the mask values starting at
    1 (an optional first line "background" is value 0). If empty, the names in the tables in alphabetical order.
    imagenet_s: file of lines `WNID NAME`, such as ImageNet's LOC_synset_mapping.txt; if empty, names are WNIDs."""
    mask_folder: Annotated[str, NotHashedPath()] = ""
    """folder: folder of masks (index PNGs), relative to the root; the mask of photos/1.jpg is MASK_FOLDER/photos/1.png
    (with `mask_suffix`, if set, before .png). If empty, there are no masks."""


def open_folder(given: FolderSettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError, naming the setting, if files are missing."""
    given.refuse_boxes("annotations", because="folder has no annotated boxes")
    root, tables = given.root_folder(""), given.list_paths(splits)
    if absent := [split for split in splits if split not in tables]:
        raise ValueError(f"lists.{absent[0]} is not set; set it to the table of that split's images and labels")
    if given.mask_folder and not (root / given.mask_folder).is_dir():
        raise ValueError(f"mask_folder = {given.mask_folder!r} is not a folder in root")
    if given.mask_folder and not given.class_list:
        raise ValueError("class_list is not set; set it to the file that lists the class of each mask value")
    given.require_saliency(root)
    return FolderSource(
        root=root,
        tables=tables,
        label_separator=given.label_separator,
        class_list=root / given.class_list if given.class_list else None,
        masks=given.mask_folder,
        mask_suffix=given.suffix_of_masks(),
        masked_splits=given.masked_splits,
        boxes="masks" if given.boxes == "masks" else "none",
        saliency=given.saliency,
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
    )
