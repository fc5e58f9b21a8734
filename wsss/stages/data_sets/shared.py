"""Settings that several data sets read. The docstring of a setting says which, and what it is to them."""

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
    """What most data sets have."""

    root: Annotated[str, NotHashedPath()] = ""
    """The data set's folder: voc, the one that holds JPEGImages; ilsvrc_det and lid, ILSVRC or the one that holds it;
    coco and folder, the one that paths are relative to."""
    lists: Annotated[dict[str, str], NotHashedPath()] = Field(default_factory=dict)
    """Split -> file. voc, ilsvrc_det, lid: keys, one a line (only voc needs them; a bare name is looked up in
    tuning/recipes/lists too). coco: the JSON file, where it is not COCO's own. folder: the table of labels."""
    masked_splits: Annotated[tuple[str, ...], MeasuringOnly()] = ("train", "val")
    """voc, lid, coco, folder: splits whose masks are read (they only measure, unless a stage says that it trains on
    them)."""
    mask_suffix: Annotated[str, MeasuringOnly(), Field(pattern=r"^[^/\\]*$"), active_unless("mask_suffix", "")] = ""
    """voc, folder: what stands between an image's name and .png in the name of its mask: photos/1.jpg has
    photos/1_mask.png where it is "_mask"."""
    class_names: tuple[str, ...] = ()
    """All but toy: the classes to keep, numbered in this order; all of the data set's where empty."""
    other_classes_as: Annotated[Literal[0, 255], MeasuringOnly()] = 0
    """voc, lid, coco, folder: what mask pixels of other classes become: background or ignored."""
    boxes: Annotated[Boxes, active_unless("boxes", "none")] = "none"
    """All but toy: frames of objects: none, those of the annotations (not folder), or of the components of the masks
    that are read (not ilsvrc_det)."""

    def root_folder(self, *folders: str) -> Path:
        """The root. Raises ValueError where it is not set, or where it holds none of `folders` ("": is none itself)."""
        if not self.root:
            raise ValueError(f"root is not set; it names the folder that holds {folders[0] or 'the images'}")
        if not any((Path(self.root) / folder).is_dir() for folder in folders):
            raise ValueError(
                f"root = {self.root!r} " + (f"holds no folder {folders[0]}" if folders[0] else "is no folder")
            )
        return Path(self.root)

    def suffix_of_masks(self) -> str:
        """`mask_suffix`, also where it was given with the ending."""
        return self.mask_suffix.removesuffix(".png")

    def list_paths(self, splits: tuple[str, ...]) -> Mapping[str, Path]:
        """Split -> file, of those that are given: an absolute path, one below the root, or a list that is shipped."""
        found: dict[str, Path] = {}
        for split in splits:
            if given := self.lists.get(split):
                places = [Path(self.root) / given, *([] if "/" in given else [LISTS / given])]
                if not (there := [place for place in places if place.is_file()]):
                    looked = " and ".join(str(place) for place in places)
                    near = beside(Path(self.root), given)
                    raise ValueError(f"lists.{split} = {given!r} names no file; looked for {looked}{near}")
                found[split] = there[0]
        return found

    def refuse_boxes(self, *refused: Boxes, because: str) -> None:
        """Raise ValueError where `boxes` asks for what a data set does not have."""
        if self.boxes in refused:
            allowed = ", ".join(value for value in ("none", "annotations", "masks") if value not in refused)
            raise ValueError(f"boxes = {self.boxes!r}: {because}; allowed are {allowed}")
