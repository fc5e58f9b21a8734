"""ImageNet-S."""

from __future__ import annotations

from shards.sources.imagenet_s import FOLDERS, ImagenetSSource
from shards.sources.source import Source
from wsss.stages.data_sets.folder import FolderSettings


def open_imagenet_s(given: FolderSettings, splits: tuple[str, ...]) -> Source:
    """Open the data set. Raises ValueError, naming the setting, if folders are missing."""
    given.refuse_boxes("annotations", because="imagenet_s has no annotated boxes")
    if unknown := [split for split in splits if split not in FOLDERS]:
        raise ValueError(f"splits names {unknown[0]!r}; this data set has only {', '.join(FOLDERS)}")
    root = given.root_folder("validation", "train", "test")
    if absent := [FOLDERS[split] for split in splits if not (root / FOLDERS[split]).is_dir()]:
        raise ValueError(f"root = {given.root!r} contains no folder {absent[0]}; remove its split from splits")
    if given.class_list and not (root / given.class_list).is_file():
        raise ValueError(f"class_list = {given.class_list!r} is not a file in root; give lines '<wnid> <name>'")
    given.require_saliency(root)
    return ImagenetSSource(
        root=root,
        splits=splits,
        lists=given.list_paths(splits),
        class_list=root / given.class_list if given.class_list else None,
        masked_splits=given.masked_splits,
        boxes="masks" if given.boxes == "masks" else "none",
        saliency=given.saliency,
        class_names=given.class_names,
        other_classes_as=given.other_classes_as,
    )
