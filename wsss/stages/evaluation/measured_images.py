"""The images that an evaluation measures: all of its splits, those of a list, or all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from shards.layer import Layer
from wsss.contract.settings import ActiveIf, FileContent, active_unless, settings
from wsss.contract.stage import Instance
from wsss.stages.data_sets.listed_images import not_in_data
from wsss.stages.data_sets.shared import LISTS

EXCLUDED = "excluded"
"""The number of images of a split that are not measured because of `image_list`."""

_IN_LISTS = FileContent(shipped=LISTS)
_LISTED = ActiveIf("image_list given", lambda stage: bool(stage.image_list))


@settings
class MeasuredImages:
    """A list of images to measure, or to leave out."""

    image_list: Annotated[str, _IN_LISTS, active_unless("image_list", "")] = ""
    """File of keys, one per line (a name without a slash is looked up in tuning/recipes/lists): only these images are
    measured, or all others. For settings that are chosen by masks of a few images and reported on the rest. Empty
    measures all. On a cluster, all nodes must share the path."""
    list_use: Annotated[Literal["only", "except"], _LISTED] = "only"
    """image_list: `only` measures the images of the list, `except` all others of the splits."""

    def check_image_list(self, instance: Instance, splits: Sequence[str]) -> None:
        """Raises: ValueError if `image_list` is not a file, or names images that the data set does not have. An unset
        environment variable is left to the run."""
        if not self.image_list or self.image_list.startswith("$"):
            return
        if not self._list_path().is_file():
            raise ValueError(
                f"{instance.name}.image_list = {self.image_list!r} does not exist ({self._list_path()}); "
                "give a file of keys, one per line"
            )
        if absent := not_in_data(instance, image_keys(self.image_list), splits):
            raise self._names_others(instance, absent, splits)

    def _names_others(self, of: Instance, absent: Sequence[str], splits: Sequence[str]) -> ValueError:
        return ValueError(
            f"{of.name}.image_list: {self._list_path()} names {absent[0]!r} ({len(absent)} such), which is no image of "
            f"{' and '.join(map(repr, splits))}; remove it from the file, or add its split to {of.name}.splits"
        )

    def planned_images(self, images: int) -> int:
        """How many of `images` are measured, for a plan; all of them if the list is not here."""
        if not self.image_list:
            return images
        try:
            listed = min(images, len(image_keys(self.image_list)))
        except OSError:
            return images
        return listed if self.list_use == "only" else images - listed

    def chosen_images(self, samples: Layer, splits: Sequence[str], *, of: Instance) -> Callable[[str], bool] | None:
        """Whether a key is measured; None if all are.

        A data stage with `max_shards` need not have all images of the list.

        Raises: ValueError if the list names an image that is in none of the splits, or if no image is left.
        """
        if not self.image_list:
            return None
        listed, chosen = image_keys(self.image_list), choice(self.image_list, self.list_use)
        manifest = [entry for split in splits for entry in samples.manifest_entries(split)]
        read = {key for entry in manifest for key in entry.entries.keys}
        known = read | {one.key for entry in manifest for one in entry.missing}
        shards = getattr(of.data, "max_shards", None)  # of a trial run: a list may name images beyond them
        if shards is None and (absent := sorted(listed - known)):
            raise self._names_others(of, absent, splits)
        if not any(map(chosen, read)):
            where = "" if shards is None else f" of those that {of.samples.name}.max_shards = {shards} keeps"
            raise ValueError(
                f"{of.name}.image_list: with list_use = {self.list_use!r}, {self._list_path()} leaves no image{where}"
            )
        return chosen

    def _list_path(self) -> Path:
        return _IN_LISTS.path(self.image_list)


def image_keys(image_list: str) -> frozenset[str]:
    """The keys in a list; raises OSError if it cannot be read."""
    lines = _IN_LISTS.path(image_list).read_text("utf-8-sig").splitlines()
    return frozenset(filter(None, map(str.strip, lines)))


def choice(image_list: str, list_use: str) -> Callable[[str], bool]:
    """Whether a key is measured with a list."""
    listed, only = image_keys(image_list), list_use == "only"
    return lambda key: (key in listed) == only
