"""Settings that several data sets read. The docstring of a setting names these data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shards.sources.neighbours import beside
from wsss.contract.settings import MeasuringOnly, NotHashedPath, active_unless, settings

LISTS = Path(__file__).resolve().parents[3] / "tuning" / "recipes" / "lists"

Boxes = Literal["none", "annotations", "masks"]


@settings
class SharedSettings:
    """Settings of most data sets."""

    root: Annotated[str, NotHashedPath()] = ""
    """The data set's folder. voc: the folder that contains JPEGImages; ilsvrc_det, lid: ILSVRC or the folder that
    contains it; imagenet_s: the folder that contains train and validation (ImageNetS919); coco, folder: the folder that
    other paths are relative to; shards: the folder or address of finished
    shards."""
    lists: Annotated[dict[str, str], NotHashedPath()] = Field(default_factory=dict)
    """Split -> file. voc, ilsvrc_det, lid, imagenet_s: keys, one per line (required only for voc; a name without a
    folder is also looked up in tuning/recipes/lists). coco: the JSON file, if not COCO's standard one. folder: the
    table of labels."""
    masked_splits: Annotated[tuple[str, ...], MeasuringOnly()] = ("train", "val")
    """voc, lid, coco, folder, imagenet_s: splits whose masks are read. Masks are only used for evaluation, unless a
    stage's settings ask for training on them."""
    mask_suffix: Annotated[str, MeasuringOnly(), Field(pattern=r"^[^/\\]*$"), active_unless("mask_suffix", "")] = ""
    """voc, folder: text between an image's name and .png in the name of its mask: with "_mask", the mask of
    photos/1.jpg is photos/1_mask.png."""
    saliency: Annotated[str, NotHashedPath()] = ""
    """voc, ilsvrc_det, lid, coco, folder, imagenet_s: folder of saliency maps, relative to the root: greyscale PNGs of
    the images' sizes, not needed for every image. voc, folder: KEY.png; coco: the path of the image relative to the
    root, as .png; ilsvrc_det, lid: SPLIT/KEY.png (val and test of lid: relative to package); imagenet_s: the path of
    the image, as .png. If empty, there are none."""
    class_names: tuple[str, ...] = ()
    """All except toy and shards: the classes to keep, numbered in this order; if empty, all classes of the data set."""
    other_classes_as: Annotated[Literal[0, 255], MeasuringOnly()] = 0
    """voc, lid, coco, folder, imagenet_s: value for mask pixels of other classes: 0 (background) or 255 (ignored, also
    in data sets of more than 254 classes, whose masks store it as 65,535)."""
    boxes: Annotated[Boxes, active_unless("boxes", "none")] = "none"
    """All except toy and shards: boxes to store: `none`, `annotations` (not for folder and imagenet_s), or `masks`:
    bounding boxes of the components of the masks that are read (not for ilsvrc_det)."""

    def root_folder(self, *folders: str) -> Path:
        """The root. Raises ValueError if it is not set, or if it contains none of `folders` ("" is the root itself)."""
        if not self.root:
            raise ValueError(f"root is not set; set it to the folder that contains {folders[0] or 'the images'}")
        if not any((Path(self.root) / folder).is_dir() for folder in folders):
            missing = (
                f"contains no folder {folders[0]}" if folders[0] and Path(self.root).is_dir() else "is not a folder"
            )
            wanted = f"the folder that contains {folders[0]}" if folders[0] else "the folder of the images"
            raise ValueError(f"root = {self.root!r} {missing}; set it to {wanted}")
        return Path(self.root)

    def suffix_of_masks(self) -> str:
        """`mask_suffix`, also if it was given with the ending .png."""
        return self.mask_suffix.removesuffix(".png")

    def list_paths(self, splits: tuple[str, ...]) -> Mapping[str, Path]:
        """Split -> file, for splits that have one: an absolute path, one relative to the root, or a shipped list."""
        found: dict[str, Path] = {}
        for split in splits:
            if given := self.lists.get(split):
                candidates = [Path(self.root) / given, *([] if "/" in given else [LISTS / given])]
                if not (existing := [path for path in candidates if path.is_file()]):
                    searched = " and ".join(str(path) for path in candidates)
                    near = beside(Path(self.root), given)
                    raise ValueError(f"lists.{split} = {given!r} does not exist; looked for {searched}{near}")
                found[split] = existing[0]
        return found

    def require_saliency(self, *roots: Path) -> None:
        """Raise ValueError if `saliency` is set and is a folder in none of the roots."""
        if self.saliency and not any((root / self.saliency).is_dir() for root in roots):
            places = " and ".join(str(root / self.saliency) for root in roots)
            raise ValueError(f"saliency = {self.saliency!r} is not a folder in root (looked for {places})")

    def refuse_boxes(self, *refused: Boxes, because: str) -> None:
        """Raise ValueError if `boxes` has a value that the data set does not support."""
        if self.boxes in refused:
            allowed = ", ".join(value for value in ("none", "annotations", "masks") if value not in refused)
            raise ValueError(f"boxes = {self.boxes!r}: {because}; allowed are {allowed}")
