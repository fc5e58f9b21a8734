"""What is known about every data set without its files: classes, and cost of listing; for `wsss plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shards.sources.toy import TOY
from shards.storage import is_remote
from shards.taxonomy import VOC_20, Taxonomy, ilsvrc_det_200
from wsss.contract.cost import ExpectedData
from wsss.contract.stage import ClassesNotKnownError
from wsss.stages.data_sets.registry import DataSettings

_ILSVRC = ("lid", "ilsvrc_det")
_IMAGENET_S_CLASSES = 919
"""Of the largest variant, which a plan without data assumes."""


def _imagenet_s() -> Taxonomy:
    return Taxonomy(tuple(f"class {number}" for number in range(1, _IMAGENET_S_CLASSES + 1)))


_CLASS_LISTS: Mapping[str, Callable[[], Taxonomy]] = {
    "toy": lambda: TOY,
    "voc": lambda: VOC_20,
    **dict.fromkeys(_ILSVRC, ilsvrc_det_200),
    "imagenet_s": _imagenet_s,
}
_LABELS = {**dict.fromkeys(_ILSVRC, "lid_labels"), "imagenet_s": "imagenet_s_labels"}
"""Source -> the figure in `costs.toml` for the number of classes in a labelled image."""
_LISTING = {"ilsvrc_det": "list_ilsvrc", "lid": "list_ilsvrc", "coco": "list_coco"}


def class_list(source: str, given: DataSettings) -> Taxonomy:
    """The classes of a data set with a fixed class list. Raises `ClassesNotKnownError` if only its files have them."""
    if source not in _CLASS_LISTS:
        known = ", ".join(_CLASS_LISTS)
        raise ClassesNotKnownError(
            f"source = {source!r}: its classes are only in its files, which are not here; set root to the folder that "
            f"contains them (known without files: {known})"
        )
    return _CLASS_LISTS[source]().subset(given.class_names)


def expected_data(source: str, given: DataSettings, *, shard_images: int, shard_bytes: float) -> ExpectedData:
    """What the settings of a data set say about its images."""
    masked, of_ilsvrc = frozenset(given.masked_splits), source in _ILSVRC
    is_toy, over_network = source == "toy", source == "shards" and is_remote(given.root)
    return ExpectedData(
        images=given.counts if is_toy else {},
        size=(given.size, given.size) if is_toy else None,
        labelled_share="lid_labelled_share" if of_ilsvrc else "",
        labels=_LABELS.get(source, "labels"),
        masked_splits=masked & {"val"} if of_ilsvrc else masked,
        shard_images=shard_images,
        shard_bytes=shard_bytes,
        cache_bytes=given.cache_gigabytes * 1e9 if over_network else None,
    )


def listing_figure(source: str) -> str:
    """Name of the figure in `costs.toml` for the cost of listing one image; empty if nothing is listed."""
    return "" if source in ("toy", "shards") else _LISTING.get(source, "list_table")
