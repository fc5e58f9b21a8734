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
    """What such a folder has besides."""

    label_separator: Annotated[str, Field(min_length=1), active_with("source", "folder")] = "|"
    """folder: what stands between the names of a cell of the table."""
    class_list: Annotated[str, NotHashedPath()] = ""
    """folder: file of all class names below the root, one a line in the order of the mask values from 1 on (a first
    line "background" is value 0, no class); without one, the names of the tables in alphabetical order."""
    mask_folder: Annotated[str, NotHashedPath()] = ""
    """folder: folder of masks below the root, index PNGs: photos/1.jpg has MASK_FOLDER/photos/1.png (`mask_suffix` may
    stand before the ending); none if empty."""


def open_folder(given: FolderSettings, splits: tuple[str, ...]) -> Source:
    """Raises ValueError, with the setting, where files are missing."""
    given.refuse_boxes("annotations", because="folder has no annotated frames")
    root, tables = given.root_folder(""), given.list_paths(splits)
    if absent := [split for split in splits if split not in tables]:
        raise ValueError(f"lists.{absent[0]} is not set; it names the table of that split's images and labels")
    if given.mask_folder and not (root / given.mask_folder).is_dir():
        raise ValueError(f"mask_folder = {given.mask_folder!r} names no folder below the root")
    if given.mask_folder and not given.class_list:
        raise ValueError("class_list is not set; it says which class each value of the masks is")
    return FolderSource(
        root=root,
        tables=tables,
        label_separator=given.label_separator,
        class_list=root / given.class_list if given.class_list else None,
        masks=given.mask_folder,
        mask_suffix=given.suffix_of_masks(),
        masked_splits=given.masked_splits,
        boxes="masks" if given.boxes == "masks" else "none",
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
    )
